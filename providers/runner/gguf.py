"""The head of a GGUF file, as far as a listing needs it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_STRING, _ARRAY = 8, 9
_MAX_TEXT = 1 << 16
_MAX_HEAD = 32 << 20
_MAX_TEMPLATE = 1 << 20
_TEMPLATES = (
    b"tokenizer.chat_template" + struct.pack("<I", _STRING),
    b"tokenizer.chat_template.tool_use" + struct.pack("<I", _STRING),
)
_MAX_FIELDS = 200
"""The facts stand at the beginning; the vocabulary comes later."""


@dataclass(frozen=True, slots=True)
class GGUFFacts:
    architecture: str | None = None
    context: int | None = None
    """Tokens it was trained on."""
    tools: bool = False
    """Whether its chat template knows of tools."""


def read_facts(path: Path) -> GGUFFacts:
    """What the head says; nothing where it is no GGUF file."""
    try:
        status = path.stat()
        return _facts(path, (status.st_mtime_ns, status.st_size, status.st_ino))
    except (OSError, struct.error, ValueError):
        return GGUFFacts()


@lru_cache(maxsize=1024)
def _facts(path: Path, _version: tuple[int, int, int]) -> GGUFFacts:
    """Read once for each version of a file, as folders are looked at every few seconds."""
    with path.open("rb") as file:
        facts = _read(file)
        return replace(facts, tools=facts.architecture is not None and _knows_tools(file))


def _knows_tools(file: BinaryIO) -> bool:
    """Looks for the template's name rather than through the vocabulary before it, which takes a
    second in Python."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as head:
        for name in _TEMPLATES:
            start = head.find(name, 0, _MAX_HEAD) + len(name)
            if start < len(name):
                continue
            (size,) = struct.unpack_from("<Q", head, start)
            text = head[start + 8 : start + 8 + min(size, _MAX_TEMPLATE)]
            if re.search(rb"\btools\b", text):
                return True
    return False


def _read(file: BinaryIO) -> GGUFFacts:
    magic, version, _tensors, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        return GGUFFacts()
    architecture = context = None
    for _ in range(min(count, _MAX_FIELDS)):
        name = _text(file)
        kind = _number(file, "<I")
        if kind == _ARRAY:
            break
        if kind == _STRING:
            value = _text(file)
            if name == "general.architecture":
                architecture = value
        elif kind in _INTEGERS and name.endswith(".context_length"):
            context = _number(file, _INTEGERS[kind])
        else:
            file.seek(_SIZES[kind] if kind in _SIZES else _unknown(kind), 1)
        if architecture and context:
            break
    return GGUFFacts(architecture, context)


def _number(file: BinaryIO, form: str) -> int:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)


def _text(file: BinaryIO) -> str:
    size = _number(file, "<Q")
    if size > _MAX_TEXT:
        file.seek(size, 1)  # a chat template may be that long, and is of no use here
        return ""
    return file.read(size).decode("utf-8", "replace")


def _unknown(kind: int) -> int:
    raise ValueError(f"no type of GGUF: {kind}")
