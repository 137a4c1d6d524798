"""Content that callers name by URL, for upstreams that take none: fetched through the outbound
guard, in bounded time and size, redirects never followed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chat.errors import InvalidRequest, UpstreamError, UpstreamFailed
from chat.images import media_type_of
from providers.http import HttpClient, HttpReply, Timeouts

MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_BYTES = 32 * 1024 * 1024
MAX_IMAGES = 16
"""What is fetched for one request."""
_TIMEOUTS = Timeouts(connect=5.0, first_byte=10.0, idle=10.0, total=15.0)


@dataclass(frozen=True, slots=True)
class Linked:
    """An image by URL and the place of the request that names it."""

    url: str
    param: str


async def fetch_images(links: Iterable[Linked], http: HttpClient) -> dict[str, bytes]:
    """The bytes of every image by its URL, one after the other, so that their sum is bounded.
    Raises InvalidRequest naming the part that may not or cannot be fetched, or is no image."""
    images: dict[str, bytes] = {}
    room = MAX_BYTES
    for link in links:
        if link.url in images:
            continue
        if len(images) == MAX_IMAGES:
            raise _refused(link, f"is one too many: {MAX_IMAGES} may be named by URL")
        image = await fetch_image(link, http, limit=min(MAX_IMAGE_BYTES, room))
        images[link.url] = image
        room -= len(image)
    return images


async def fetch_image(link: Linked, http: HttpClient, *, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """One image of at most `limit` bytes. Raises InvalidRequest."""
    try:
        reply = await http.request(
            "GET", link.url, headers={"accept": "image/*"}, timeouts=_TIMEOUTS
        )
        try:
            return _checked(await _read(reply, link, limit), link)
        finally:
            reply.close()
    except UpstreamError as error:
        # Its words may tell what our network looks like from inside; one word of it does not.
        raise _refused(link, f"could not be fetched ({_kind(error)})") from None


async def _read(reply: HttpReply, link: Linked, limit: int) -> bytes:
    if reply.status != 200:
        raise _refused(link, f"could not be fetched (its server answered {reply.status})")
    media_type = (reply.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise _refused(link, "is not an image by its content type")
    try:
        return await reply.read(limit=limit)
    except UpstreamFailed:
        raise _refused(link, f"is larger than the {limit >> 20} MiB there is room for") from None


def _checked(image: bytes, link: Linked) -> bytes:
    if media_type_of(image) is None:
        raise _refused(link, "is not an image of a known format")
    return image


def _kind(error: UpstreamError) -> str:
    return "not permitted" if error.kind == "outbound" else error.kind


def _refused(link: Linked, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The image at '{link.param}' {reason}.", param=link.param, code="invalid_image_url"
    )
