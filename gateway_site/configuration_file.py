"""The configuration's text: YAML, read strictly and written the same way every time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pydantic
import yaml

from gateway_site.configuration_schema import Configuration
from usage.fields import usd_text

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


class ConfigurationError(Exception):
    """What is wrong with a configuration, each with its place; never with a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_configuration(text: str) -> Configuration:
    """Raises ConfigurationError, which names everything that is wrong with the text itself."""
    document, problems = _load(text)
    if not isinstance(document, dict):
        raise ConfigurationError(problems + ["the file must be a mapping of lists of entries"])
    try:
        problems += _unstorable(document)
        configuration = Configuration.model_validate(document)
    except RecursionError:
        raise ConfigurationError(["the file is nested too deeply"]) from None
    except pydantic.ValidationError as error:
        problems += [_problem(detail) for detail in error.errors()]
        raise ConfigurationError(problems) from None
    if problems:
        raise ConfigurationError(problems)
    return configuration


class _Loader(yaml.SafeLoader):
    """Notes keys that are given twice, where YAML's own loader takes the last one."""

    # Without the timestamps: a date is what its field says, and JSON options know none.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[str] = []

    # While composing: constructing folds `<<` into the mapping, and its keys may be repeated.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    line = key.start_mark.line + 1
                    self.repeated.append(f"line {line}: {key.value} is given twice")
                seen.add(key.value)
        return node


def _load(text: str) -> tuple[Any, list[str]]:
    """The document and its repeated keys. Raises ConfigurationError."""
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.repeated
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError([_syntax_problem(error)]) from None
    except (yaml.YAMLError, ValueError):
        raise ConfigurationError(["the file is not YAML"]) from None
    except RecursionError:
        raise ConfigurationError(["the file is nested too deeply"]) from None


def _syntax_problem(error: yaml.MarkedYAMLError) -> str:
    # PyYAML quotes the file, and what it quotes may be a secret.
    cause = re.sub(r"'[^']{3,}'|\"[^\"]{3,}\"", "…", error.problem or "this is not YAML")
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {cause}" if mark else cause


def _unstorable(value: Any, path: str = "", *, within: tuple[int, ...] = ()) -> Iterator[str]:
    """Places of what YAML can say and a JSON column of either database cannot hold."""
    if isinstance(value, dict | list):
        if id(value) in within:
            yield f"{path}: refers to itself"
            return
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(value, dict) and not (isinstance(key, str) and _is_text(key)):
                yield f"{path or 'the file'}: has a key that is not text"
            else:
                yield from _unstorable(item, _joined(path, key), within=(*within, id(value)))
    elif isinstance(value, str):
        if not _is_text(value):
            yield f"{path}: holds a character that is not text"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{path}: must be a finite number"
    elif not (value is None or isinstance(value, int)):
        yield f"{path}: holds a {type(value).__name__}"


def _is_text(value: str) -> bool:
    return not re.search("[\0\ud800-\udfff]", value)


def _joined(path: str, key: int | str) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def _problem(detail: Mapping[str, Any]) -> str:
    path = ""
    for key in detail["loc"]:
        path = _joined(path, key)
    return f"{path or 'the file'}: {_cause(detail)}"


def _cause(detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "is required"
        case "model_type":
            return "must be a mapping"
        case "value_error":
            return str(detail["ctx"]["error"])
    return str(detail["msg"]).replace("Input should be", "must be", 1)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_decimal(dumper: yaml.SafeDumper, value: Decimal) -> yaml.ScalarNode:
    text = usd_text(value) or ""
    return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)


_Dumper.add_representer(Decimal, _represent_decimal)


def write_document(document: Mapping[str, Any]) -> str:
    """YAML in the order given. Decimals become numbers, to the last digit."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
