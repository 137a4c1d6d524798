"""Who is asking, as the rest of the gateway sees them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `name` is the key's name in the ledger; `models` are globs on the
    public name, None for everything enabled. `rpm`, `tpm`, `max_parallel`: None is unlimited."""

    name: str
    is_admin: bool = False
    models: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    """Globs on the names of registered tools, None for all of them."""
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None
    expires_at: float | None = None
    """Seconds since the epoch."""

    @property
    def is_limited(self) -> bool:
        return not (self.rpm is None and self.tpm is None and self.max_parallel is None)

    def may_use(self, model: str) -> bool:
        """Whether this caller may use a public model name."""
        return self.models is None or any(fnmatchcase(model, glob) for glob in self.models)

    def may_use_tool(self, name: str) -> bool:
        """Whether this caller may use a registered tool."""
        return self.tools is None or any(fnmatchcase(name, glob) for glob in self.tools)

    def may_use_all(self, provider: str) -> bool:
        """Whether this caller may use every model a provider has or will have: a glob that takes
        the provider's bare prefix and ends in `*` takes whatever follows."""
        return self.models is None or any(
            glob.endswith("*") and fnmatchcase(f"{provider}/", glob) for glob in self.models
        )


LOCAL = Caller(name="local", is_admin=True)
"""A process on this machine in local mode. Its name can be no key's but one made on purpose."""

ANYONE = Caller(name="anyone", is_admin=True)
"""Everybody, where authentication was switched off."""
