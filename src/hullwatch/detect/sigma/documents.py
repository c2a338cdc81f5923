"""The documents of Sigma files, with the place of every key.

YAML is read by our own reader, which knows places and is bounded; pySigma gets plain values.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.language.document import Value, read_documents

__all__ = ["Document", "read"]

_MAX_TITLE = 200


@dataclass(frozen=True, slots=True)
class Document:
    """One document: a rule or a correlation. plain: as YAML gives it, for pySigma."""

    value: Value
    plain: dict[str, Any]

    @property
    def place(self) -> Place:
        return self.value.place

    @property
    def item(self) -> str:
        """How errors call it."""
        title = self.plain.get("title")
        return f"rule {title[:_MAX_TITLE]!r}" if isinstance(title, str) else ""

    def place_of(self, name: str, value: str = "") -> Place:
        """Of the first key that names the field or modifier, and in it of the value if that is
        found; of the document where there is no such key."""
        first = None
        text = value.strip("*")
        for key, place, inner in _keys(self.value):
            if name not in key.split("|"):
                continue
            first = first or place
            for scalar in _scalars(inner):
                if text and str(scalar.data).strip("*") == text:
                    return scalar.place
        return first or self.place

    def keys(self, under: str) -> Iterator[tuple[str, Place, Any]]:
        """Every key below a key of the document: its place, its plain value."""
        inner = self.value.data.get(under) if isinstance(self.value.data, dict) else None
        for key, place, value in _keys(inner) if inner is not None else ():
            yield key, place, _plain(value)


def read(text: str, path: str) -> Iterator[Document]:
    """Every document of one file; raises RuleError for what is no YAML."""
    for value in read_documents(text, path):
        if value.is_null:
            continue
        if not isinstance(value.data, dict):
            raise RuleError(
                "a Sigma file holds mappings (title, logsource, detection)",
                value.place,
                mend="keep rules of other languages in files of their own",
            )
        yield Document(value, _plain(value))


def _plain(value: Value) -> Any:
    if isinstance(value.data, dict):
        return {key: _plain(one) for key, one in value.data.items()}
    if isinstance(value.data, list):
        return [_plain(one) for one in value.data]
    if value.tag == "str":
        return value.data
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{value.tag}", value.data)
    try:
        made = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):
        raise RuleError(f"'{value.data[:80]}' is no value of YAML", value.place) from None
    # A date in a detection is text to whoever wrote it.
    return value.data if isinstance(made, datetime.date | bytes) else made


def _keys(value: Value) -> Iterator[tuple[str, Place, Value]]:
    if isinstance(value.data, dict):
        for key, inner in value.data.items():
            yield key, value.key_places[key], inner
            yield from _keys(inner)
    elif isinstance(value.data, list):
        for one in value.data:
            yield from _keys(one)


def _scalars(value: Value) -> Iterator[Value]:
    if isinstance(value.data, list | dict):
        for one in value.data.values() if isinstance(value.data, dict) else value.data:
            yield from _scalars(one)
    elif isinstance(value.data, str):
        yield value
