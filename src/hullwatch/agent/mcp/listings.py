"""What a server lists as its tools, in pages or whole, held against what was pinned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from hullwatch.agent.mcp.confusable import disguised
from hullwatch.agent.mcp.pins import MAX_TOOLS, Change, PinError, Pins, Tool, digest_of
from hullwatch.agent.mcp.signals import Signals

__all__ = ["Listings"]

_MAX_PAGES = 64  # cursors of unfinished listings


class Listings:
    """Of one server. hold: calls of tools that changed or are new will be held."""

    def __init__(
        self,
        server: str,
        pins: Pins | None,
        hold: bool,
        signals: Signals,
        clock: Callable[[], int],
    ) -> None:
        self._server = server
        self._pins = pins
        self._hold = hold
        self._signals = signals
        self._clock = clock
        # The next cursor of a listing -> names so far. For all clients, as one without a session
        # asks for each page by itself.
        self._pages: OrderedDict[str, list[str]] = OrderedDict()

    def listed(self, cursor: str, raw: bytes) -> None:
        """The result of a `tools/list` that was asked for with this cursor; '' the first page."""
        try:
            result = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            self._signals.tell("unparsed", "tools/list", "not JSON, or nested too deeply")
            return
        definitions = result.get("tools") if isinstance(result, dict) else None
        if not isinstance(definitions, list):
            return
        tools = self._tools(definitions)
        # None: its beginning was not seen, so what is missing is not known.
        before = self._pages.pop(cursor, None) if cursor else []
        names = None if before is None else [*before, *tools]
        following = result.get("nextCursor")
        more = isinstance(following, str) and following != ""
        if more and names is not None and len(names) <= MAX_TOOLS:
            self._pages[following] = names
            if len(self._pages) > _MAX_PAGES:
                self._pages.popitem(last=False)
        self._compare(list(tools.values()), None if more else names)

    def _tools(self, definitions: list[object]) -> dict[str, Tool]:
        tools: dict[str, Tool] = {}
        for definition in definitions:
            tool = digest_of(definition) if isinstance(definition, dict) else None
            if tool is None:
                continue
            twin = tools.get(tool.name)
            if twin is not None and twin.digest != tool.digest:
                self._tell_shadow(tool.name, "listed twice, with two definitions")
                tool = Tool(tool.name, twin.digest[:32] + tool.digest[:32], twin.text)
            tools[tool.name] = tool
            self._signals.definition(tool.name, tool.text.encode())
            if disguised(tool.name):
                self._tell_shadow(tool.name, "letters that are not what they seem")
        return tools

    def _tell_shadow(self, name: str, detail: str) -> None:
        self._signals.tell("tool_shadows", name, detail)

    def _compare(self, tools: list[Tool], whole: list[str] | None) -> None:
        """whole: the names of a listing that has ended with these tools."""
        if self._pins is None:
            return
        changes: list[Change] = []
        try:
            changes += self._pins.see(self._server, tools, self._clock())
            if whole is not None:
                changes += self._pins.finish(self._server, whole, self._clock())
        except PinError as error:
            self._signals.tell("pins_unusable", self._server, str(error))
        for change in changes:
            held = self._hold and change.kind in ("tool_changed", "tool_added")
            self._signals.tell(change.kind, change.tool, change.detail, held=held)
