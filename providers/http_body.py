"""Bodies that come compressed although `Accept-Encoding: identity` was asked for."""

from __future__ import annotations

import zlib

_STEP = 256 * 1024
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


class Decoder:
    """Unpacks gzip and deflate in steps, so that a small body that unpacks to a huge one meets its
    reader's limit before it meets the end of the memory."""

    def __init__(self) -> None:
        self._packed = b""
        self._unpack: zlib._Decompress | None = None

    def feed(self, packed: bytes) -> None:
        """Add what has arrived."""
        self._packed += packed

    def take(self) -> bytes:
        """What can be unpacked, 256 KiB at most; nothing when more is needed. Raises ValueError."""
        while self._packed:
            if self._unpack is None:
                self._unpack = zlib.decompressobj(_window(self._packed))
            try:
                piece = self._unpack.decompress(self._packed, _STEP)
            except zlib.error as error:
                raise ValueError("not what its content-encoding says") from error
            self._packed = self._unpack.unconsumed_tail
            if self._unpack.eof:  # a gzip file may be several, one after the other
                self._packed, self._unpack = self._unpack.unused_data, None
            if piece:
                return piece
        return b""

    def end(self) -> None:
        """Raises ValueError when the compressed stream has not ended with the body."""
        if self._unpack is not None:
            raise ValueError("the compressed body is cut off")


def _window(packed: bytes) -> int:
    # "deflate" means zlib's format, and some servers send it bare: RFC 9110, 8.4.1.2.
    return _GZIP_OR_ZLIB if packed[0] == 0x1F or packed[0] & 0x0F == 8 else _RAW


def decoder_for(encoding: str | None) -> Decoder | None:
    """None where nothing is to be decoded. Raises ValueError for an encoding unknown here."""
    match (encoding or "").strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip" | "deflate":
            return Decoder()
    raise ValueError(encoding)
