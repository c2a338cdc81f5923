"""JSON (RFC 8259) read for a few fields only: bytes in any pieces, values at wanted paths out.

A body may be megabytes of prompt: nothing is kept but the value that is being picked, and what
nobody asked for is passed over without being built. The grammar is loose on purpose. A server may
accept what a strict parser refuses (NaN, lone surrogates, bytes that are no UTF-8), and then the
strict one would be blind to a call that happens.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from hullwatch.agent.wire.said import Room, Said

__all__ = ["MAX_DEPTH", "MAX_TEXT", "Container", "Paths", "Picked", "Scanner", "Value", "pick"]

MAX_TEXT = 256  # characters of a picked string
MAX_RAW = 6 * MAX_TEXT  # its bytes, all of them escaped
MAX_NUMBER = 64  # bytes of a number
MAX_BUILT = 64 << 10  # bytes of a document that is built as a whole
MAX_DEPTH = 512  # deeper than that is a problem to be told; it costs no memory

_BLANK = re.compile(rb"[ \t\r\n]*+")
_PLAIN_KEY = re.compile(rb',?[ \t\r\n]*+"([^"\\]{0,64})"[ \t\r\n]*+:[ \t\r\n]*+')
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SKIP = re.compile(rb'[^"\[\]{}]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\[\]{}]*+)*+', re.DOTALL)
_RUN = re.compile(rb"[\[{]++|[\]}]++")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
_WHOLE = re.compile(rb"(?:[^\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+", re.DOTALL)
_INTEGER = re.compile(rb"-?\d{1,18}")
_QUOTE, _BACKSLASH, _COLON, _COMMA = b'"\\:,'
_OPEN, _CLOSE = frozenset(b"[{"), frozenset(b"]}")


class Container(Enum):
    """What stands where a scalar might: its content was not asked for."""

    OBJECT = "object"
    ARRAY = "array"


Value = str | int | float | bool | Container | Said | None


class Picked(NamedTuple):
    field: str
    value: Value


class _Node:
    """A place in the document: what its value is called, and the places below."""

    __slots__ = ("each", "end", "field", "keys", "lower", "presence", "taken")

    def __init__(self) -> None:
        self.field = ""
        self.presence = False
        self.end = ""
        self.taken = ""
        self.keys: dict[str, _Node] = {}
        self.lower: dict[str, str] = {}
        self.each: _Node | None = None


class Paths:
    """Which values are wanted. `paths`: 'tools.*.function.name' -> field; `*` is each element of an
    array, '' the document itself. A field that begins with '?' is picked as True where the value is
    not empty, without its content. `ends`: path of an object or array -> field that is picked (as
    None) where it ends. `taken`: path of an object, array or string -> field whose JSON is picked
    as it is written (Said), where a scanner has room for that."""

    def __init__(
        self,
        paths: Mapping[str, str],
        ends: Mapping[str, str] | None = None,
        taken: Mapping[str, str] | None = None,
    ) -> None:
        self.root = _Node()
        for path, field in paths.items():
            node = self._place(path)
            node.field, node.presence = field.lstrip("?"), field.startswith("?")
        for path, field in (ends or {}).items():
            self._place(path).end = field
        for path, field in (taken or {}).items():
            self._place(path).taken = field

    def _place(self, path: str) -> _Node:
        node = self.root
        for part in path.split(".") if path else ():
            if part == "*":
                node.each = node.each or _Node()
                node = node.each
            else:
                node.lower[part.lower()] = part
                node = node.keys.setdefault(part, _Node())
        return node


class _Frame:
    """An open object or array in which something is wanted. child: place of the value to come."""

    __slots__ = ("array", "child", "node", "seen", "valued")

    def __init__(self, node: _Node, array: bool) -> None:
        self.node = node
        self.array = array
        self.valued = array
        self.child = node.each if array else None
        self.seen: set[str] = set()


class Scanner:
    """Feed it one document, or several in a row. Never raises; memory is bounded by the paths.
    room: for what is `taken`, None: nothing is.

    problems: `duplicate KEY` (a wanted key twice in one object: parsers differ in which counts),
    `case KEY` (equal to a wanted key but for its case: some parsers take it), `depth`.
    """

    __slots__ = (
        "_escaped",
        "_filled",
        "_key",
        "_level",
        "_paths",
        "_room",
        "_said",
        "_scalar",
        "_skip",
        "_stack",
        "_string",
        "_taken",
        "_taking",
        "_target",
        "_text",
        "problems",
    )

    def __init__(self, paths: Paths, room: Room | None = None) -> None:
        self._paths = paths
        self._room = room
        self.reset()

    def reset(self) -> None:
        """A new document begins, whatever came of the last."""
        self._stack: list[_Frame] = []
        self._skip = 0  # open brackets of a part that nobody asked about
        self._string = False
        self._escaped = False
        self._key = False  # the string is a key
        self._filled = False  # the string has content
        self._target: _Node | None = None  # where the string or scalar belongs
        self._text: bytearray | None = None  # its bytes, if they are wanted
        self._scalar: bytearray | None = None
        self._said: Said | None = None  # what is being taken,
        self._taken, self._level = "", 0  # for which field, and how many frames are around it
        self._taking = self._room is not None
        self.problems: set[str] = set()

    @property
    def open(self) -> bool:
        """Is a document under way?"""
        return bool(self._stack or self._skip or self._string or self._scalar is not None)

    def feed(self, data: bytes) -> list[Picked]:
        """What was picked from this piece, in the document's order."""
        found: list[Picked] = []
        at, size = 0, len(data)
        while at < size:
            before = at
            if self._string:
                at = self._in_string(data, at, found)
            elif self._skip:
                at = self._in_skipped(data, at)
            elif self._scalar is not None:
                at = self._in_scalar(data, at, found)
            else:
                at = self._between(data, at, found)
            if self._said is not None:
                self._said.add(data[before:at])
                if not (self._string or self._skip or len(self._stack) > self._level):
                    found += self._take()
        return found

    def gap(self) -> list[Picked]:
        """Something is missing here: what is being taken ends, and no more is, until `reset`."""
        self._taking = False
        if self._said is None:
            return []
        self._said.whole = False
        return self._take()

    def finish(self) -> list[Picked]:
        """The input ends here: a number at the top level ends with it."""
        found: list[Picked] = []
        if self._scalar is not None:
            self._end_scalar(found)
        return found

    def _begin_taking(self, node: _Node | None) -> None:
        if self._taking and node is not None and node.taken and self._said is None:
            assert self._room is not None
            self._said = Said(self._room)
            self._taken, self._level = node.taken, len(self._stack)

    def _take(self) -> list[Picked]:
        said, self._said = self._said, None
        return [Picked(self._taken, said)]

    def _in_string(self, data: bytes, at: int, found: list[Picked]) -> int:
        begin = at
        if self._escaped:
            self._escaped = False
            at += 1
        match = _TEXT.match(data, at)
        end = match.end() if match else at
        closed = end < len(data) and data[end] == _QUOTE
        if not closed and end < len(data):  # a backslash whose other half is in the next piece
            self._escaped = True
            end += 1
        self._filled = self._filled or end > begin
        if self._text is not None and len(self._text) <= MAX_RAW:
            self._text += data[begin : min(end, begin + MAX_RAW + 1)]
        if not closed:
            return end
        self._string = False
        if self._skip:
            return end + 1
        raw, self._text = self._text, None
        if self._key:
            self._key = False
            self._name(b"" if raw is None else bytes(raw))
        else:
            self._give(self._target, found, raw)
        return end + 1

    def _in_skipped(self, data: bytes, at: int) -> int:
        match = _SKIP.match(data, at)
        at = match.end() if match else at
        if at == len(data):
            return at
        char = data[at]
        if char == _QUOTE:  # it does not end within this piece
            self._begin_string(None)
            return at + 1
        match = _RUN.match(data, at)
        run = match.end() - at if match else 1
        if char in _OPEN:
            self._skip += run
            if self._skip + len(self._stack) > MAX_DEPTH:
                self.problems.add("depth")
        else:
            run = min(run, self._skip)
            self._skip -= run
        return at + run

    def _in_scalar(self, data: bytes, at: int, found: list[Picked]) -> int:
        match = _SCALAR.match(data, at)
        end = match.end() if match else at
        assert self._scalar is not None
        if len(self._scalar) <= MAX_NUMBER:
            self._scalar += data[at : min(end, at + MAX_NUMBER + 1)]
        if end < len(data):
            self._end_scalar(found)
        return end

    def _between(self, data: bytes, at: int, found: list[Picked]) -> int:
        match = _BLANK.match(data, at)
        at = match.end() if match else at
        if at == len(data):
            return at
        char = data[at]
        frame = self._stack[-1] if self._stack else None
        if frame is not None and not frame.array and (char == _COMMA or not frame.valued):
            match = _PLAIN_KEY.match(data, at)
            if match is not None:  # most are: a key at once, with what stands around it
                frame.valued = True
                self._name(match[1])
                return match.end()
        if char == _QUOTE:
            if frame is not None and not frame.valued:
                self._key = True
                self._begin_string(None)
                self._text = bytearray()
            else:
                self._begin_string(self._place(frame))
        elif char == _COLON:
            if frame is not None:
                frame.valued = True
        elif char == _COMMA:
            if frame is not None and not frame.array:
                frame.valued, frame.child = False, None
        elif char in _OPEN:
            self._open(self._place(frame), char == b"["[0], found)
        elif char in _CLOSE:
            if frame is not None:
                self._stack.pop()
                if frame.node.end:
                    found.append(Picked(frame.node.end, None))
        else:
            self._target = self._place(frame)
            self._scalar = bytearray()
            return at
        return at + 1

    def _place(self, frame: _Frame | None) -> _Node | None:
        return self._paths.root if frame is None else frame.child

    def _begin_string(self, target: _Node | None) -> None:
        self._begin_taking(target)
        self._string = True
        self._filled = False
        self._target = target
        wanted = target is not None and target.field and not target.presence
        self._text = bytearray() if wanted else None

    def _open(self, node: _Node | None, array: bool, found: list[Picked]) -> None:
        self._begin_taking(node)
        if node is not None and node.field:
            kind: Value = Container.ARRAY if array else Container.OBJECT
            found.append(Picked(node.field, True if node.presence else kind))
        if node is None or not (node.end or (node.each if array else node.keys)):
            self._skip = 1
        else:
            self._stack.append(_Frame(node, array))

    def _name(self, raw: bytes) -> None:
        """A key was read in the innermost frame."""
        frame = self._stack[-1]
        name = _decode(raw) if b"\\" in raw else raw.decode("utf-8", "replace")
        frame.child = frame.node.keys.get(name)
        if frame.child is not None:
            if name in frame.seen:
                self.problems.add(f"duplicate {name}")
            frame.seen.add(name)
        elif len(name) < MAX_TEXT and name.lower() in frame.node.lower:
            self.problems.add(f"case {frame.node.lower[name.lower()]}")

    def _give(self, node: _Node | None, found: list[Picked], raw: bytearray | None) -> None:
        if node is None or not node.field:
            return
        if node.presence:
            if self._filled:
                found.append(Picked(node.field, True))
        elif raw is not None:
            found.append(Picked(node.field, _decode(bytes(raw))))

    def _end_scalar(self, found: list[Picked]) -> None:
        raw, self._scalar = self._scalar, None
        node = self._target
        if node is None or not node.field or raw is None:
            return
        value = _scalar(bytes(raw))
        if not node.presence:
            found.append(Picked(node.field, value))
        elif value is not None:
            found.append(Picked(node.field, True))


def _decode(raw: bytes) -> str:
    """A string's bytes between the quotes as text of at most MAX_TEXT characters."""
    if len(raw) > MAX_RAW or b"\\" in raw:
        match = _WHOLE.match(raw[:MAX_RAW])
        raw = match[0] if match else b""
    text = raw.decode("utf-8", "replace")
    if "\\" in text:
        with contextlib.suppress(ValueError):  # an escape that is none is shown as it is
            text = str(json.loads(f'"{text}"', strict=False))
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text[:MAX_TEXT]


def _scalar(raw: bytes) -> Value:
    """A literal; a number that is no plain int or finite float stays text, as it was written."""
    if raw in _LITERALS:
        return _LITERALS[raw]
    if _INTEGER.fullmatch(raw):
        return int(raw)
    try:
        number = float(raw) if len(raw) <= MAX_NUMBER else math.inf
    except ValueError:
        number = math.inf
    return number if math.isfinite(number) else raw[:MAX_NUMBER].decode("latin-1")


_LITERALS: dict[bytes, Value] = {b"true": True, b"false": False, b"null": None}


def pick(data: bytes, paths: Paths, room: Room | None = None) -> list[Picked]:
    """A whole document at once, fields in no order. Small and sound ones, such as the thousands of
    events of one stream, are built and walked: the scanner takes ten times as long."""
    if len(data) <= MAX_BUILT:
        try:
            found: list[Picked] = []
            _walk(paths.root, msgspec.json.decode(data), found, room)
            return found
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
    scanner = Scanner(paths, room)
    return [*scanner.feed(data), *scanner.gap(), *scanner.finish()]


def _walk(node: _Node, value: Any, found: list[Picked], room: Room | None) -> None:
    if node.taken and room is not None and isinstance(value, str | dict | list):
        said = Said(room)
        said.add(msgspec.json.encode(value))
        found.append(Picked(node.taken, said))
    if node.field:
        held = Container.OBJECT if isinstance(value, dict) else value
        held = Container.ARRAY if isinstance(value, list) else held
        if not node.presence:
            found.append(Picked(node.field, held[:MAX_TEXT] if isinstance(held, str) else held))
        elif held is not None and held != "":
            found.append(Picked(node.field, True))
    if isinstance(value, dict):
        for key, child in node.keys.items():
            if key in value:
                _walk(child, value[key], found, room)
    elif isinstance(value, list) and node.each is not None:
        for each in value:
            _walk(node.each, each, found, room)
    if node.end and isinstance(value, dict | list):
        found.append(Picked(node.end, None))
