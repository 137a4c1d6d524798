"""Every recorded interaction is replayed by a test, or left out for a reason that stands here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from tests import recorded_lists
from tests.recordings import needs, recorded
from tests.responses import test_replay as responses
from tests.wire import test_anthropic_replay as anthropic
from tests.wire import test_compatible_replay as compatible
from tests.wire import test_completions_replay as completions
from tests.wire import test_embeddings_replay as embeddings
from tests.wire import test_messages_answers as messages
from tests.wire import test_ollama_replay as ollama
from tests.wire import test_openai_replay as chats

pytestmark = [
    pytest.mark.once,
    needs(recorded()),
]

LEFT_OUT = {
    "/pipeline/question-answering/deepset/roberta-base-squad2": (
        "no endpoint of ours: it answers a question out of a given text"
    ),
}

REPLAYED: dict[str, Iterable[dict[str, Any]]] = {
    "chats of OpenAI, as they came": chats.INTERACTIONS,
    "chats of other servers, as they came": compatible.INTERACTIONS,
    "messages of Anthropic, as they came and as chats": anthropic.INTERACTIONS,
    "counts of tokens": anthropic.COUNTS,
    "responses, as they came": responses.NATIVE,
    "chats, told as responses": responses.CHATS,
    "chats, told as Anthropic's messages": messages.INTERACTIONS,
    "Ollama's chats, both ways, and its listing": ollama.INTERACTIONS,
    "text completions": completions.INTERACTIONS,
    "embeddings": embeddings.INTERACTIONS,
    "listings of models": recorded_lists.INTERACTIONS,
}


def test_no_recorded_interaction_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    found = {each["id"]: each["endpoint"] for each in recorded()}
    left_out = {each for each, endpoint in found.items() if endpoint in LEFT_OUT}
    counts = {name: len({each["id"] for each in told}) for name, told in REPLAYED.items()}
    replayed = {each["id"] for told in REPLAYED.values() for each in told}
    with capsys.disabled():
        print(
            f"\n{len(found)} recorded interactions: {len(replayed)} replayed and compared "
            f"({counts}); left out: "
            f"{dict(Counter(LEFT_OUT[found[each]] for each in left_out)) or 'none'}"
        )
    assert found.keys() - replayed == left_out
