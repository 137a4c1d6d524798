"""Our own credential in what an upstream says: cut out before it reaches anybody (M42).

Some servers and proxies put the headers they were sent into what they answer.
"""

from __future__ import annotations

from functools import lru_cache

_SHORTEST = 12
"""Characters. Shorter ones are the words that servers without keys are given (`EMPTY`, `ollama`,
`lm-studio`), and stand in honest answers too."""
_INSTEAD = b"[redacted]"


def without(text: bytes, api_key: str) -> bytes:
    """A text without the credential."""
    for form in forms_of(api_key):
        text = text.replace(form, _INSTEAD)
    return text


@lru_cache(maxsize=256)
def forms_of(api_key: str) -> tuple[bytes, ...]:
    """The credential as it is, and as JSON writers that escape slashes tell it; nothing where there
    is none to be kept secret."""
    if len(api_key) < _SHORTEST:
        return ()
    return tuple(form.encode() for form in {api_key, api_key.replace("/", "\\/")})


class Cutter:
    """`without` for what comes in pieces: the end of one that may be the start of the credential is
    kept until the next."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._forms = forms_of(api_key)
        self._kept = b""

    def feed(self, piece: bytes) -> bytes:
        if not self._forms:
            return piece
        text = without(self._kept + piece, self._api_key)
        size = max(_begun(text, form) for form in self._forms)
        self._kept = text[len(text) - size :]
        return text[: len(text) - size]

    def end(self) -> bytes:
        kept, self._kept = self._kept, b""
        return kept


def _begun(text: bytes, form: bytes) -> int:
    """How many bytes at the end of `text` are a beginning of `form`."""
    at = max(0, len(text) - len(form) + 1)
    while (at := text.find(form[:1], at)) >= 0:
        if form.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
