"""The schemas within a schema, those that only its references reach among them.

A reference may lead anywhere in its document (`#/components/schemas/Pet`): what it finds there is
judged as a schema too, or a validation would meet what nobody has looked at. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY, specification_with

HOLDS_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
HOLDS_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
HOLDS_NAMED = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)


_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Part(NamedTuple):
    """A schema within a schema, where it stands and how deep."""

    path: str
    schema: Any
    depth: int = 0


class NoSchemaThere(Exception):
    """A reference that finds no schema, and where it stands."""

    def __init__(self, path: str, reference: str) -> None:
        self.path, self.reference = path, reference
        super().__init__(path, reference)


def subschemas(schema: Any, path: str = "") -> Iterator[Part]:
    """Every schema within one that is an object, itself first."""
    left = [Part(path, schema)]
    while left:
        part = left.pop()
        if not isinstance(part.schema, dict):
            continue
        yield part
        left += _within(part)


def _within(part: Part) -> list[Part]:
    return [
        Part(f"{part.path}.{name}{place}", inner, part.depth + 1)
        for name, value in part.schema.items()
        for place, inner in _held(name, value)
    ]


def _held(name: str, value: Any) -> list[tuple[str, Any]]:
    if name in HOLDS_NAMED and isinstance(value, dict):
        return [(f".{key}", part) for key, part in value.items()]
    if name in HOLDS_SEVERAL and isinstance(value, list):
        return [(f"[{at}]", part) for at, part in enumerate(value)]
    return [("", value)] if name in HOLDS_ONE else []


class References:
    """What the references of a schema of this dialect lead to. Raises ValueError for an `$id` that
    is no address."""

    def __init__(self, schema: dict[str, Any], *, dialect: str) -> None:
        self._specification = specification_with(dialect)
        root = self._specification.create_resource(schema)
        address = root.id() or ""
        # Walked once: the registry does it again for every name that it has not met yet.
        self.registry: Registry[Any] = EMPTY_REGISTRY.with_resource(address, root).crawl()
        self._root = self.registry.resolver(address)

    def reached(self, schema: dict[str, Any], path: str) -> Iterator[Part]:
        """The parts of a schema that references alone reach. Whoever takes one judges it before
        the next is looked for. Raises NoSchemaThere."""
        known = {id(part.schema) for part in subschemas(schema)}
        left = [(Part(path, schema), self._root)]
        while left:
            part, resolver = left.pop()
            if not isinstance(part.schema, dict):
                continue
            left += [(inner, self._within(inner, resolver)) for inner in _within(part)]
            for found, beyond in self._referred(part, resolver):
                if id(found.schema) not in known:
                    yield found
                    known |= {id(each.schema) for each in subschemas(found.schema)}
                    left.append((found, beyond))

    def _within(self, part: Part, resolver: Any) -> Any:
        if isinstance(part.schema, dict) and "$id" in part.schema:
            return resolver.in_subresource(self._specification.create_resource(part.schema))
        return resolver

    def _referred(self, part: Part, resolver: Any) -> Iterator[tuple[Part, Any]]:
        for name in _REFERENCES:
            reference = part.schema.get(name)
            if not isinstance(reference, str):
                continue
            place = f"{part.path}.{name}"
            try:
                found = resolver.lookup(reference)
            except (Unresolvable, ValueError):
                raise NoSchemaThere(place, reference) from None
            if isinstance(found.contents, dict):
                yield Part(place, found.contents), found.resolver
            elif not isinstance(found.contents, bool):
                raise NoSchemaThere(place, reference)
