"""JSON-RPC 2.0 as MCP carries it: what each message is, without keeping what it says.

Framing: lines (stdio), or one body or event's data (HTTP). MCP has no `Content-Length` framing;
that is LSP's. Nothing is encoded again: whoever passes messages on gets their own bytes.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal, NamedTuple

from hullwatch.agent.wire.jsonscan import Container, Paths, Picked, Scanner, Value
from hullwatch.agent.wire.said import Room, Said

__all__ = ["MAX_LINE", "Body", "Id", "Kind", "Line", "Lines", "Message", "read"]

MAX_LINE = 64 << 20  # bytes of a line; what is longer is passed over
MAX_BATCH = 256  # messages of one batch that are told

Kind = Literal["request", "notification", "response", "error", "invalid"]
Id = str | int | float | None

_MESSAGE = {
    "jsonrpc": "jsonrpc",
    "id": "id",
    "method": "method",
    "params": "params",
    "params.name": "name",
    "params.requestId": "cancels",
    "params.protocolVersion": "protocol",
    "params.clientInfo.name": "peer",
    "result": "result",
    "result.isError": "failed",
    "result.resultType": "result_type",
    "result.protocolVersion": "protocol",
    "result.serverInfo.name": "peer",
    "error": "error",
    "error.code": "code",
}
_SAID = dict.fromkeys(("params.arguments", "result", "error"), "said")


def _batched(paths: dict[str, str]) -> dict[str, str]:
    """Of a message that stands alone, and of each of a batch."""
    return paths | {f"*.{path}": field for path, field in paths.items()}


_ENDS = {"": "end", "*": "end"}
_PATHS = Paths(_batched(_MESSAGE), _ENDS)
_TAKEN = Paths(_batched(_MESSAGE), _ENDS, _batched(_SAID))
# After a hole: this is how a message begins that is not the rest of another.
_BEGINNING = re.compile(rb'\s*\[?\s*\{\s*"(?:jsonrpc|id|method|params|result|error)"\s*:', re.ASCII)
_AHEAD = 32  # bytes that decide it


class Message(NamedTuple):
    """name: `params.name`, the tool of a tools/call. size: bytes of the line or body it is in.
    part: 0 where it stands alone, else its place in a batch. peer: what a client or server calls
    itself. cancels: the request that a notification takes back. failed: `result.isError`. said:
    JSON of `params.arguments`, the result or the error, where there was room for it.

    problems: `duplicate KEY`, `case KEY`, `depth` (see jsonscan); `utf8`; `version` (no 2.0);
    `id` (of a kind MCP does not have); `batch` (more than MAX_BATCH); `cut`: the end is missing,
    and perhaps the id.
    """

    kind: Kind
    id: Id = None
    method: str = ""
    name: str = ""
    size: int = 0
    part: int = 0
    code: int | None = None
    failed: bool = False
    result_type: str = ""
    cancels: Id = None
    protocol: str = ""
    peer: str = ""
    problems: tuple[str, ...] = ()
    said: Said | None = None


class Body:
    """One document, in any pieces: feed(data), then end() -> its messages. What is no JSON-RPC
    gives none. Several documents in a row are all read: so do servers that decode a stream.
    room: for what messages say, None: that is passed over."""

    def __init__(self, room: Room | None = None) -> None:
        self._scanner = Scanner(_PATHS if room is None else _TAKEN, room)
        self._begin()

    def _begin(self) -> None:
        self._scanner.reset()
        self._utf8: codecs.IncrementalDecoder | None = None
        self._problems: set[str] = set()
        self._open: dict[str, Value] = {}
        self._done: list[dict[str, Value]] = []
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self._check(data)
        self._sort(self._scanner.feed(data))

    def gap(self, size: int) -> None:
        """Bytes are missing: of what follows nothing can be told."""
        self.size += size
        self._sort(self._scanner.gap())
        self._problems.add("cut")

    def end(self) -> list[Message]:
        """The document is over; the next may be fed."""
        self._check(b"", last=True)
        cut = self._scanner.open or "cut" in self._problems
        self._sort(self._scanner.gap())
        if self._open:  # it broke off, and may still say which call it is
            self._done.append(self._open)
        problems = self._problems | self._scanner.problems | ({"cut"} if cut else set())
        parts = [fields for fields in self._done if _is_message(fields, cut)]
        alone = len(parts) == 1
        messages = [
            _message(fields, self.size, 0 if alone else place, problems)
            for place, fields in enumerate(parts, 1)
        ]
        self._begin()
        return messages

    def _check(self, data: bytes, last: bool = False) -> None:
        if self._utf8 is None:
            if data.isascii():
                return
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        try:
            self._utf8.decode(data, last)
        except UnicodeDecodeError:
            self._problems.add("utf8")
            self._utf8.reset()

    def _sort(self, found: list[Picked]) -> None:
        if "cut" in self._problems:
            return
        for field, value in found:
            if field != "end":
                self._open[field] = value
            elif self._open:
                if len(self._done) < MAX_BATCH:
                    self._done.append(self._open)
                else:
                    self._problems.add("batch")
                self._open = {}


def read(data: bytes, room: Room | None = None) -> list[Message]:
    """The messages of a whole document."""
    body = Body(room)
    body.feed(data)
    return body.end()


class Line(NamedTuple):
    """raw: the line's bytes with its end, where Lines keeps them and it was not too long."""

    messages: tuple[Message, ...]
    size: int
    raw: bytes | None = None

    def __repr__(self) -> str:
        return f"Line({self.messages}, size={self.size})"


class Lines:
    """Messages by lines. keep: bytes of a line that are kept for whoever passes it on, 0: none.

    Only lines with bytes in them are told. A line that is no message has none in it.
    """

    def __init__(self, keep: int = 0, room: Room | None = None) -> None:
        self._keep = keep
        self._raw = bytearray()
        self._body = Body(room)
        self._ahead: bytearray | None = None  # after a hole: the first bytes
        self._deaf = False  # until the next line
        self._long = False

    @property
    def pending(self) -> bool:
        """Is a line under way?"""
        return self._body.size > 0

    def feed(self, data: bytes) -> list[Line]:
        if self._ahead is not None:
            self._ahead += data
            if len(self._ahead) < _AHEAD and b"\n" not in self._ahead:
                return []
            data, self._ahead = bytes(self._ahead), None
            self._deaf = _BEGINNING.match(data) is None
        lines: list[Line] = []
        at = 0
        while (end := data.find(b"\n", at) + 1) > 0:
            self._add(data[at:end])
            lines += self._take()
            at = end
        if at < len(data):
            self._add(data[at:] if at else data)
        return lines

    def gap(self, size: int) -> list[Line]:
        """`size` bytes are missing. The line under way ends with what is known of it; reading goes
        on where a message begins: at once if it looks like one, else after the next line end."""
        self._body.gap(size)
        lines = self._take()
        self._ahead = bytearray()
        return lines

    def close(self) -> list[Line]:
        """No more will come: the last line may lack its end."""
        lines: list[Line] = []
        if self._ahead:
            pending, self._ahead = bytes(self._ahead), None
            self._deaf = _BEGINNING.match(pending) is None
            lines += self.feed(pending)
        return [*lines, *self._take()]

    def _add(self, data: bytes) -> None:
        if self._deaf or self._long:
            return
        if self._body.size + len(data) > MAX_LINE:
            self._long = True
            self._body.gap(len(data))
        else:
            self._body.feed(data)
        if self._keep and len(self._raw) <= self._keep:
            self._raw += data[: self._keep + 1]

    def _take(self) -> list[Line]:
        """The line is over."""
        size = self._body.size
        whole = not self._long and len(self._raw) == size
        raw = bytes(self._raw) if self._keep and whole and size <= self._keep else None
        self._raw.clear()
        messages = tuple(self._body.end())
        self._deaf = self._long = False
        return [Line(messages, size, raw)] if size else []


def _is_message(fields: dict[str, Value], cut: bool) -> bool:
    """Other objects are something else. Both official SDKs write version and id at the end, so a
    message that broke off may lack them."""
    named = "method" in fields or "result" in fields or "error" in fields
    return named and (cut or "jsonrpc" in fields or "id" in fields)


def _message(fields: dict[str, Value], size: int, part: int, problems: set[str]) -> Message:
    problems = set(problems)
    ident = fields.get("id")
    if isinstance(ident, bool | Container | Said):
        ident = None
    if ident is None and "id" in fields:
        problems.add("id")
    if fields.get("jsonrpc") != "2.0" and "cut" not in problems:
        problems.add("version")
    code, cancels, said = fields.get("code"), fields.get("cancels"), fields.get("said")
    return Message(
        kind=_kind(fields, "cut" in problems),
        id=ident,
        method=_text(fields, "method"),
        name=_text(fields, "name"),
        size=size,
        part=part,
        code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        failed=fields.get("failed") is True,
        result_type=_text(fields, "result_type"),
        cancels=None if isinstance(cancels, bool | Container | Said) else cancels,
        protocol=_text(fields, "protocol"),
        peer=_text(fields, "peer"),
        problems=tuple(sorted(problems)),
        said=said if isinstance(said, Said) else None,
    )


def _kind(fields: dict[str, Value], cut: bool) -> Kind:
    if "method" in fields:
        method = fields["method"]
        if not isinstance(method, str):
            return "invalid"
        asks = "id" in fields or (cut and not method.startswith("notifications/"))
        return "request" if asks else "notification"
    return "error" if isinstance(fields.get("error"), Container) else "response"


def _text(fields: dict[str, Value], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
