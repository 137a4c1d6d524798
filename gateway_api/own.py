"""What a caller's key has stored: found among its own, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from chat.errors import NotFound
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from providers.database import in_database
from sessions_app.ids import Unknown

P = ParamSpec("P")
T = TypeVar("T")


class OwnView(AsyncAPIView):
    """A view of stored things. Another key's do not exist here, not even for an admin's."""

    async def own(
        self, look: Callable[Concatenate[str, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `look` finds among the caller's own. Raises NotFound, for another key's as for what
        never was."""
        try:
            return await in_database(look, self.caller.name, *args, **kwargs)
        except Unknown as unknown:
            raise not_found(unknown) from None


def deleted(name: str, kind: str) -> AnyAnswer:
    return json_answer({"id": name, "object": kind, "deleted": True})


def not_found(unknown: Unknown) -> NotFound:
    noun = unknown.noun
    return NotFound(
        f"{noun.capitalize()} with id '{unknown.name[:200]}' not found.",
        param=f"{noun}_id",
        code=f"{noun}_not_found",
    )
