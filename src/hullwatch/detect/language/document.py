"""YAML that keeps the place of every value.

Falco rule files are YAML sequences of mappings; PyYAML's node graph has a mark on each node,
which plain `load` throws away.
"""

from __future__ import annotations

import bisect
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from hullwatch.detect.errors import Place, RuleError

__all__ = ["MAX_FILE", "Value", "read_documents"]

MAX_FILE = 16 * 1024 * 1024
_MAX_NODES = 500_000
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Value:
    """A YAML value: str (scalar as written), list[Value] or dict[str, Value] in `data`.

    tag: YAML's own idea of a scalar: 'str', 'int', 'float', 'bool', 'null'.
    """

    data: str | list[Value] | dict[str, Value]
    place: Place
    tag: str = "str"
    key_places: dict[str, Place] = field(default_factory=dict)
    _source: _Source | None = None
    _index: int = 0

    @property
    def is_null(self) -> bool:
        return self.tag == "null"

    def locate(self, offset: int) -> Place:
        """The place of character `offset` of this scalar's text in the file."""
        if self._source is None or not isinstance(self.data, str):
            return self.place
        return self._source.place_in(self._index, self.data, offset)


class _Source:
    """The raw text of a file, to find where a folded scalar's characters came from."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self.maps: dict[int, array[int]] = {}

    def place_at(self, index: int) -> Place:
        line = bisect.bisect_right(self.lines, index)
        return Place(self.path, line, index - self.lines[line - 1] + 1)

    def place_in(self, start: int, value: str, offset: int) -> Place:
        found = self.maps.get(start)
        if found is None:
            found = self.maps[start] = self.map(start, value)
        return self.place_at(found[min(max(offset, 0), len(found) - 1)])

    def map(self, start: int, value: str) -> array[int]:
        """For each character of a scalar, its index in the file.

        Folding and indentation change blanks only, so the others pair up in order.
        """
        text, index = self.text, start
        if text[index : index + 1] in (">", "|"):
            index = text.find("\n", index) + 1
        elif text[index : index + 1] in ("'", '"'):
            index += 1
        found = array("L")
        for char in value:
            if not char.isspace():
                while index < len(text) - 1 and text[index].isspace():
                    index += 1
                found.append(index)
                index = min(index + 1, len(text) - 1)
            else:
                found.append(index)
        found.append(index)
        return found


def read_documents(text: str, path: str) -> Iterator[Value]:
    """Every document of a YAML text; raises RuleError with the place of what is wrong."""
    if len(text) > MAX_FILE:
        raise RuleError(f"the file is larger than {MAX_FILE} bytes", Place(path))
    source = _Source(path, text)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Reader(source)
    try:
        for node in yaml.compose_all(text, Loader=loader):
            if node is not None:
                yield reader.value(node, 0)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path)
        raise RuleError(f"not YAML: {problem.problem or problem.context}", place) from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = str(problem).splitlines() or ["?"]
        raise RuleError(f"not YAML: {said[0]}", Place(path)) from None


class _Reader:
    def __init__(self, source: _Source) -> None:
        self.source = source
        self.nodes = 0

    def value(self, node: Any, depth: int) -> Value:
        mark = node.start_mark
        place = Place(self.source.path, mark.line + 1, mark.column + 1)
        self.nodes += 1
        # Aliases make a small file large: every visit counts.
        if self.nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise RuleError("the file holds too many or too deeply nested values", place)
        tag = node.tag.rpartition(":")[2]
        if isinstance(node, yaml.ScalarNode):
            return Value(node.value, place, tag, {}, self.source, mark.index)
        if isinstance(node, yaml.SequenceNode):
            return Value([self.value(item, depth + 1) for item in node.value], place, "seq")
        found: dict[str, Value] = {}
        keys: dict[str, Place] = {}
        for key, item in node.value:
            at = Place(self.source.path, key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise RuleError("a key must be plain text", at)
            if key.value in found:
                raise RuleError(f"key '{key.value}' is given twice", at)
            found[key.value] = self.value(item, depth + 1)
            keys[key.value] = at
        return Value(found, place, "map", keys)
