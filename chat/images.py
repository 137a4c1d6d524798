"""What an image is, by its first bytes, and images inside URLs."""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

_HEAD_CHARACTERS = 32
"""Base64 characters that hold the bytes a format is known by."""


def media_type_of(image: bytes) -> str | None:
    """The media type of an image; None for a format unknown here."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    if image.startswith(b"BM"):
        return "image/bmp"
    if image.startswith((b"II*\x00", b"MM\x00*")):
        return "image/tiff"
    if image[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        return "image/avif" if image[8:12] == b"avif" else "image/heic"
    return None


def media_type_of_base64(text: str) -> str | None:
    """The media type of an image in base64. Raises ValueError for what is no base64."""
    head = text[:_HEAD_CHARACTERS]
    return media_type_of(binascii.a2b_base64(head + "=" * (-len(head) % 4), strict_mode=True))


def data_url_payload(url: str) -> tuple[str, bytes | str] | None:
    """A `data:` URL's media type and content: base64 text as it stands, or bytes where it is not
    in base64; None for what is no data URL (RFC 2397)."""
    if url[:5].lower() != "data:":
        return None
    head, comma, content = url[5:].partition(",")
    if not comma:
        return None
    media_type, *parameters = head.split(";")
    if parameters and parameters[-1].strip().lower() == "base64":
        return media_type.strip().lower(), content
    return media_type.strip().lower(), unquote_to_bytes(content)
