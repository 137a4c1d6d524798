"""An upstream that holds one conversation in whatever wire it is asked in, and a gateway with a
provider of every kind in front of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.dialects import Answer, Call, Dialect
from tests.contract.kinds import ANTHROPIC, OLLAMA, OPENAI, SPEAKS
from tests.gateway import Gateway, configuration
from tests.upstream import Asked, Peer, scripted_upstream

HELLO = Answer(words=("Hello", " there", "."))
LOOKING = Answer(calls=(Call("call_1", "get_weather", ('{"ci', 'ty": "Par', 'is"}')),))
SUNNY = Answer(words=("Sunny", " in Paris."))


async def converse(asked: Asked, peer: Peer) -> None:
    """Says hello; calls a tool that it is offered; tells what the tool found."""
    dialect = dialect_at(asked.path)
    request = dialect.read(asked.json())
    answer = SUNNY if request.answers_call else LOOKING if request.offers_tools else HELLO
    if not request.streams:
        peer.answer(200, json.dumps(dialect.whole(answer)).encode())
        return
    peer.begin(content_type=dialect.content_type)
    for event in dialect.stream(answer):
        peer.piece(event)
    peer.end()


def dialect_at(path: str) -> Dialect:
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI


def model_of(kind: str) -> str:
    return f"{kind}/some-model"


@contextmanager
def talking_gateway(folder: Path, database_url: str) -> Iterator[Gateway]:
    """A server process with a provider of every kind, named as the kind."""
    with scripted_upstream(converse) as upstream:
        configured = configuration(upstream.base_url)
        (scripted,) = configured["providers"]
        every = [{**scripted, "name": kind, "kind": kind} for kind in SPEAKS]
        gateway = Gateway(folder, database_url)
        gateway.apply({"providers": every, "keys": configured["keys"]})
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()
