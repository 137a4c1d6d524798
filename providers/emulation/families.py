"""Which envelope a model writes its calls in: found from its name, the longest match first.

The facts are those of the makers' model cards and chat templates, and of the recorded outputs the
tests read. A fine-tune that was taught an envelope of its own beats the model it was made from,
whose name it carries too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from providers.emulation import writing
from providers.emulation.reading.answer import Dialect
from providers.emulation.writing import Envelope


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    envelope: Envelope
    dialect: Dialect = Dialect()


UNKNOWN = Family("unknown", writing.HERMES)
_HERMES = Family("Hermes", writing.HERMES)
_LLAMA_JSON = Family("Llama 3 (JSON)", writing.LLAMA_JSON, Dialect(json_anywhere=True))
_PYTHONIC = Family("Llama 3.2 and 4", writing.PYTHONIC, Dialect(json_anywhere=True, python=True))
_GEMMA_4 = Family("Gemma 4", writing.GEMMA_4)
_TOOL_CODE = Family("Gemma 1 to 3, Llama 2", writing.TOOL_CODE)

_FINE_TUNES: tuple[tuple[re.Pattern[str], Family], ...] = (
    (re.compile(r"(nous[-_]?|open)?hermes[-_.]?\d*"), _HERMES),
    (
        re.compile(r"deepseek[-_.]?(r|v|coder|chat|llm)?[-_.]?\d*"),
        Family("DeepSeek", writing.DEEPSEEK),
    ),
)
_BASES: tuple[tuple[re.Pattern[str], Family], ...] = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"qwen([-_.]?[1-3])?(\.[0-4])?", Family("Qwen", writing.HERMES)),
        (
            r"qwen[-_.]?(3[-_.]?coder|3\.[5-9]|[4-9](?![\d.]*b))",
            Family("Qwen3-Coder", writing.QWEN_CODER),
        ),
        (r"granite[-_.]?\d*", Family("Granite", writing.HERMES)),
        (r"(^|[-_.])phi[-_.]?\d*", Family("Phi", writing.HERMES)),
        (r"glm[-_.]?4[-_.][5-9](?![\d.]*b)", Family("GLM-4.5", writing.SPECIAL_TOKENS)),
        (r"glm[-_.]?[5-9](?![\d.]*b)", Family("GLM-5", writing.GLM)),
        (r"gemma[-_.]?[1-3]?", _TOOL_CODE),
        (r"gemma[-_.]?[4-9](?![\d.]*b)", _GEMMA_4),
        (r"functiongemma", _GEMMA_4),
        (r"lfm[-_.]?\d*", Family("LFM2", writing.LFM_2)),
        (r"llama[-_.]?2", _TOOL_CODE),
        (r"codellama", _TOOL_CODE),
        (r"llama[-_.]?3([-_.][013](?!\d))?", _LLAMA_JSON),
        (r"llama[-_.]?(3[-_.]2(?!\d)|4(?![\d.]*b))", _PYTHONIC),
        (
            r"(mistral|ministral|mixtral|magistral|devstral|codestral|pixtral)",
            Family("Mistral", writing.MISTRAL),
        ),
        (r"gpt[-_.]?oss", Family("gpt-oss", writing.HARMONY)),
    )
)


@lru_cache(maxsize=4096)
def family_of(model: str) -> Family:
    """The family of an upstream's model, from the last part of its name. One that is not known
    gets what most models have seen: JSON in `<tool_call>`."""
    name = model.lower().rpartition("/")[2]
    return _longest(name, _FINE_TUNES) or _longest(name, _BASES) or UNKNOWN


def _longest(name: str, patterns: tuple[tuple[re.Pattern[str], Family], ...]) -> Family | None:
    best, size = None, 0
    for pattern, family in patterns:
        for found in pattern.finditer(name):
            if len(found[0]) > size:
                best, size = family, len(found[0])
    return best
