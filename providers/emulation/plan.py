"""Which emulations a request needs at a target: decided here, from the flags alone."""

from __future__ import annotations

from collections.abc import Callable

from chat.requests import ChatRequest
from providers.capabilities import Capabilities
from providers.emulation.chosen_tools import ChosenTools, lacks_choice
from providers.emulation.emulation import Emulation
from providers.emulation.strategies import wants_format
from providers.emulation.structured import StructuredOutput
from providers.emulation.tools import EmulatedTools, lacks_tools

Applies = Callable[[ChatRequest, Capabilities], bool]
Make = Callable[[Capabilities, str], Emulation]

_TABLE: tuple[tuple[Applies, Make], ...] = (
    (wants_format, lambda capabilities, model: StructuredOutput(capabilities)),
    (lacks_tools, EmulatedTools),
    (lacks_choice, lambda capabilities, model: ChosenTools(capabilities)),
)
"""In the order in which they prepare a request, and in reverse that in which they restore its
answer. `Make` is given the target's flags and the upstream's name of the model."""


def may_need_emulation(request: ChatRequest) -> bool:
    """Whether a request asks for anything that is ever imitated. Most do not: this is all the
    hot path pays."""
    params = request.params
    return bool(params.tools or params.functions or params.response_format)


def plan(request: ChatRequest, capabilities: Capabilities, *, model: str) -> list[Emulation]:
    """The emulations for one request at one target, empty where it can do all that is asked."""
    return [make(capabilities, model) for applies, make in _TABLE if applies(request, capabilities)]
