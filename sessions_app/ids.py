"""What stored things are called: by ids nobody can guess, looked up among their owner's own."""

from __future__ import annotations

import re
import secrets
from typing import ClassVar, TypeGuard

_ID = re.compile(r"[\x21-\x7e]{1,200}")


class Unknown(LookupError):
    """There is no such thing among the owner's. `noun` is what it would have been."""

    noun: ClassVar[str]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def new_id(prefix: str) -> str:
    """An unguessable id."""
    return f"{prefix}_{secrets.token_hex(24)}"


def is_id(value: object) -> TypeGuard[str]:
    """Whether a value could be an id at all: databases refuse some texts, U+0000 among them."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
