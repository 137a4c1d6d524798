"""Multipart forms on their way through: read in any split, passed on as they are but for `model`.

Strict where readers differ, because a form that we and the upstream read differently would let a
key reach a model it may not use: delimiters stand on lines of their own and nowhere else, headers
are plain, and no field that decides anything stands twice. RFC 7578 and RFC 2046, 5.1.
"""

from __future__ import annotations

import re

from chat.errors import InvalidRequest

MAX_PART_HEAD = 8 * 1024
MAX_MODEL = 512
MAX_PARTS = 1024
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=?-]{1,70}")
_PARAMETER = re.compile(r';[ \t]*([A-Za-z*_-]+)=("[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*"|[^\s;"\\]+)')
_PART_HEADERS = frozenset(
    {"content-disposition", "content-type", "content-length", "content-transfer-encoding"}
)
_AS_IT_IS = ("", "7bit", "8bit", "binary")


def boundary_of(content_type: str) -> str:
    """The boundary of `multipart/form-data; boundary=…`. Raises InvalidRequest."""
    media_type, _, _ = content_type.partition(";")
    parameters = _parameters(content_type[len(media_type) :])
    boundary = (parameters or {}).get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise malformed("its boundary is missing or none that a form can have")
    return boundary


def malformed(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The form cannot be read: {reason}.", code="invalid_form")


def _parameters(text: str) -> dict[str, str] | None:
    """`; name="a"; filename=b` as a mapping; None for what is no such thing, or ambiguous."""
    found: dict[str, str] = {}
    at = 0
    while match := _PARAMETER.match(text, at):
        name, value = match[1].lower(), match[2]
        if name in found:
            return None
        found[name] = value[1:-1] if value.startswith('"') else value
        at = match.end()
    return found if not text[at:].strip(" \t;") else None


class FormReader:
    """A form read as it comes. What `feed` gives back is the form without the value of its field
    `model`, which belongs at `model_at`, counted from the start of all that was given back.
    With `field` None no value is kept back."""

    def __init__(
        self,
        boundary: str,
        *,
        field: str | None = "model",
        forbidden: frozenset[str] = frozenset(),
    ) -> None:
        self.model: str | None = None
        self.model_at: int | None = None
        """Where in the output the value of `model` belongs; None where there is none so far."""
        self.ended = False
        self._delimiter = b"--" + boundary.encode("ascii")
        self._field = field
        self._forbidden = forbidden
        self._buffer = b""
        self._given = 0
        self._parts = 0
        self._in_head = False
        self._value: bytearray | None = None

    def feed(self, data: bytes) -> bytes:
        """What may be passed on now. Raises InvalidRequest."""
        self._buffer += data
        passed: list[bytes] = []
        while self._step(passed):
            pass
        return b"".join(passed)

    def finish(self) -> None:
        """Call at the end of the bytes. Raises InvalidRequest for a form that was cut off."""
        if not self.ended or self._buffer.strip(b"\r\n"):
            raise malformed("it is cut off, or goes on after its end")

    def _step(self, passed: list[bytes]) -> bool:
        """One step through the buffer; False when more bytes are needed."""
        if self.ended:
            self._pass(self._buffer, passed)
            if self._buffer.strip(b"\r\n"):
                raise malformed("it goes on after its end")
            self._buffer = b""
            return False
        return self._read_head(passed) if self._in_head else self._read_content(passed)

    def _read_content(self, passed: list[bytes]) -> bool:
        """Content up to the next delimiter and the two bytes that follow it."""
        buffer, delimiter = self._buffer, self._delimiter
        at = buffer.find(delimiter)
        if at < 0:
            keep = len(delimiter) + 1  # the line break before it, and all but its last byte
            if not self._parts and len(buffer) >= len(delimiter):
                raise malformed("it does not begin with its boundary")
            self._take_content(len(buffer) - keep, passed)
            return False
        end = at + len(delimiter)
        if len(buffer) < end + 2:
            return False
        if at == 0 and not self._parts:
            content = 0
        elif self._parts and at >= 2 and buffer[at - 2 : at] == b"\r\n":
            content = at - 2
        else:
            raise malformed("its boundary stands where no part ends")
        self._take_content(content, passed)
        self._end_part()
        mark = buffer[end : end + 2]
        if mark not in (b"\r\n", b"--"):
            raise malformed("its boundary is followed by something else")
        self.ended = mark == b"--"
        self._in_head = not self.ended
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise malformed("it has too many parts")
        self._pass(buffer[content : end + 2], passed)
        self._buffer = buffer[end + 2 :]
        return True

    def _take_content(self, size: int, passed: list[bytes]) -> None:
        if size <= 0:
            return
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        if self._value is None:
            self._pass(content, passed)
            return
        self._value += content
        if len(self._value) > MAX_MODEL:
            raise malformed("its field 'model' is too long")

    def _end_part(self) -> None:
        if self._value is None:
            return
        try:
            model = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise malformed("its field 'model' is not UTF-8") from None
        if not model.isprintable():
            raise malformed("its field 'model' holds control characters")
        self.model, self._value = model, None

    def _read_head(self, passed: list[bytes]) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MAX_PART_HEAD:
            raise malformed("the headers of a part are too long")
        if not found:
            return False
        name = _name_of_part(head)
        if name in self._forbidden:
            raise InvalidRequest(f"The field '{name}' is not passed on.", param=name)
        self._pass(head + found, passed)
        self._buffer = rest
        self._in_head = False
        if self._field is not None and name.strip().lower() == self._field:
            self._begin_model(name)
        return True

    def _begin_model(self, name: str) -> None:
        if name != self._field:
            raise malformed(f"a field is all but named '{self._field}'")
        if self.model_at is not None:
            raise malformed(f"its field '{self._field}' stands twice")
        self.model_at, self._value = self._given, bytearray()

    def _pass(self, data: bytes, passed: list[bytes]) -> None:
        self._given += len(data)
        passed.append(data)


def _name_of_part(head: bytes) -> str:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise malformed("the headers of a part are not UTF-8") from None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name in headers or name not in _PART_HEADERS or "\r" in line:
            raise malformed("a part has headers that no field of a form needs")
        if "\n" in line:
            raise malformed("the headers of a part are broken over lines")
        headers[name] = value.strip(" \t")
    if headers.get("content-transfer-encoding", "").lower() not in _AS_IT_IS:
        raise malformed("a part is encoded")
    disposition, _, _ = headers.get("content-disposition", "").partition(";")
    rest = headers.get("content-disposition", "")[len(disposition) :]
    parameters = _parameters(rest)
    if disposition.strip().lower() != "form-data" or not parameters or "name" not in parameters:
        raise malformed("a part does not say which field it is")
    name = parameters["name"]
    if "name*" in parameters or "\\" in name:
        raise malformed("a part names its field in a way that is read differently elsewhere")
    if name == "model" and parameters.keys() - {"name"}:
        raise malformed("its field 'model' is a file")
    return name
