"""The parts of the runner's own server that need transformers' tokenizer or numpy, and no model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.local_models.conversion import converted_model
from tests.local_models.local import require

require("transformers")

import numpy as np  # noqa: E402

from providers.runner.serving.errors import Refusal  # noqa: E402
from providers.runner.serving.sampling import Sampler, Sampling  # noqa: E402
from providers.runner.serving.tokens import Detokeniser, Prompts, open_tokenizer  # noqa: E402

pytestmark = pytest.mark.once

HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch OWNED').read() }}",
    "{% for m in messages %}{{ m.clear() }}{% endfor %}",
    "{{ lipsum.__globals__['os'].system('touch OWNED') }}",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return open_tokenizer(converted_model())


@pytest.mark.parametrize(
    "text", ["The café — naïve “quotes”.", "🧑‍🚀🇫🇷 日本語と한국어", "a\n\n  b\tc", "ẞ∑𝔘" * 20]
)
def test_text_comes_out_as_it_went_in_and_never_half_a_character(tokenizer: Any, text: str) -> None:
    detokeniser = Detokeniser(tokenizer)
    pieces = [detokeniser.add(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + detokeniser.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_that_is_never_finished_becomes_a_replacement_character(tokenizer: Any) -> None:
    detokeniser = Detokeniser(tokenizer)
    half = tokenizer.encode("🧑")[:-1]
    pieces = [detokeniser.add(token) for token in half]
    assert "".join(pieces) == ""
    assert set(detokeniser.rest()) == {"\ufffd"}


def test_bytes_that_never_become_a_character_do_not_pile_up(tokenizer: Any) -> None:
    detokeniser = Detokeniser(tokenizer)
    half = tokenizer.encode("🧑")[0]
    assert "".join(detokeniser.add(half) for _ in range(40)) != ""


def test_special_tokens_have_no_text(tokenizer: Any) -> None:
    detokeniser = Detokeniser(tokenizer)
    ids = tokenizer.encode("<|im_start|>hello<|im_end|>")
    assert "".join(map(detokeniser.add, ids)) + detokeniser.rest() == "hello"


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_breaks_out_of_nothing(
    tokenizer: Any, template: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tokenizer, "chat_template", template)
    prompts = Prompts(tokenizer, context=1000)
    with pytest.raises(Refusal, match="template"):
        prompts.of_chat([{"role": "user", "content": "Hello"}])
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_template_says_that_it_does_not_chat(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(Refusal, match="no chat template"):
        Prompts(tokenizer, context=1000).of_chat([{"role": "user", "content": "Hello"}])


def test_a_prompt_that_can_only_be_too_long_is_not_read(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = Prompts(tokenizer, context=10)
    monkeypatch.setattr(tokenizer, "encode", None)
    with pytest.raises(Refusal, match="context holds 10 tokens") as told:
        prompts.of_text("word " * 100_000)
    assert told.value.code == "context_length_exceeded"


def test_ids_the_model_does_not_have_are_refused(tokenizer: Any) -> None:
    with pytest.raises(Refusal, match="does not have"):
        Prompts(tokenizer, context=10).of_ids([10**9])


# --- sampling -------------------------------------------------------------------------------------


def logits(*values: float) -> Any:
    return np.array(values, dtype=np.float32)


def draws(sampling: Sampling, values: Any, count: int = 400) -> Counter[int]:
    sampler = Sampler(sampling, prompt=())
    return Counter(sampler.pick(values).token for _ in range(count))


def test_without_temperature_the_likeliest_is_taken() -> None:
    assert draws(Sampling(), logits(1, 3, 2)) == {1: 400}


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    drawn = draws(Sampling(temperature=1, seed=1), np.log(logits(0.7, 0.2, 0.1)), count=4000)
    shares = [drawn[token] / 4000 for token in range(3)]
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_top_k_keeps_that_many() -> None:
    assert draws(Sampling(temperature=2, top_k=2, seed=1), logits(1, 3, 2, 0)).keys() == {1, 2}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    drawn = draws(Sampling(temperature=1, top_p=0.85, seed=1), np.log(logits(0.1, 0.6, 0.3)))
    assert drawn.keys() == {1, 2}


def test_top_p_is_exact_where_it_reaches_beyond_the_likely() -> None:
    flat = np.zeros(5000, dtype=np.float32)
    assert len(draws(Sampling(temperature=1, top_p=0.99, seed=1), flat, count=6000)) > 3000


def test_min_p_drops_what_is_far_less_likely_than_the_likeliest() -> None:
    drawn = draws(Sampling(temperature=1, min_p=0.4, seed=1), np.log(logits(0.6, 0.3, 0.1)))
    assert drawn.keys() == {0, 1}


def test_a_negative_seed_is_a_seed() -> None:
    sampling = Sampling(temperature=1, seed=-5)
    values = logits(1, 1, 1, 1)
    assert draws(sampling, values) == draws(sampling, values)


def test_the_repetition_penalty_sees_the_prompt_and_the_others_do_not() -> None:
    values = logits(3, 2.9)
    assert Sampler(Sampling(repetition_penalty=1.5), prompt=[0]).pick(values).token == 1
    assert Sampler(Sampling(frequency_penalty=2), prompt=[0]).pick(values).token == 0


def test_penalties_count_what_was_generated() -> None:
    sampler = Sampler(Sampling(presence_penalty=0.5), prompt=())
    assert [sampler.pick(logits(3, 2.9)).token for _ in range(2)] == [0, 1]


def test_a_bias_for_a_token_that_does_not_exist_does_nothing() -> None:
    assert Sampler(Sampling(logit_bias={99: 100.0}), prompt=()).pick(logits(3, 2)).token == 0


def test_log_probabilities_are_the_models_own_whatever_is_drawn() -> None:
    sampling = Sampling(temperature=0.1, logit_bias={2: 100.0}, top_logprobs=2)
    sampled = Sampler(sampling, prompt=()).pick(np.log(logits(0.7, 0.2, 0.1)))
    assert sampled.token == 2
    assert sampled.logprob == pytest.approx(np.log(0.1), abs=1e-4)
    assert [token for token, _ in sampled.top] == [0, 1]
