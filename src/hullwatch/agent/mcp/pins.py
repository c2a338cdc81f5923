"""Tool definitions as they were first seen: trust on first use, kept in a small SQLite file.

A server's first whole listing is taken as it is. From then on a tool whose definition is another,
or that is new, waits for a person: `hullwatch mcp pins accept`. The file is of mode 0600; writers
exclude each other, and each write is one transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hullwatch.agent.mcp.confusable import skeleton

__all__ = ["Change", "Pin", "PinError", "Pins", "Tool", "digest_of", "fields_changed"]

State = Literal["pinned", "changed", "added", "removed"]
MAX_TOOLS = 2000  # of one server; the rest is reported, not kept
MAX_DEFINITION = 64 << 10  # bytes of a definition that is kept to be shown; the hash has all of it
LEARN_NS = 3600 * 10**9  # a server that never ends its first listing is learnt no longer than so
_MIND = 5.0  # s that a writer waits for another one

_SCHEMA = """
CREATE TABLE IF NOT EXISTS server (
    name TEXT PRIMARY KEY, first_seen INTEGER NOT NULL, learned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pin (
    server TEXT NOT NULL REFERENCES server (name), tool TEXT NOT NULL, state TEXT NOT NULL,
    digest TEXT NOT NULL, definition TEXT NOT NULL,
    offered_digest TEXT NOT NULL DEFAULT '', offered TEXT NOT NULL DEFAULT '',
    skeleton TEXT NOT NULL, first_seen INTEGER NOT NULL, changed INTEGER NOT NULL,
    PRIMARY KEY (server, tool)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pin_skeleton ON pin (skeleton);
"""
_COLUMNS = "server, tool, state, digest, definition, offered_digest, offered, first_seen, changed"


class PinError(Exception):
    """The file cannot be used: where, what, mend."""


class Tool(NamedTuple):
    """A definition as a listing has it. text: JSON with its keys in order, without `_meta`."""

    name: str
    digest: str
    text: str


class Pin(NamedTuple):
    """definition, digest: what is trusted (empty for `added`). offered: what the server says now,
    where that is another. Times in unix ns."""

    server: str
    tool: str
    state: State
    digest: str
    definition: str
    offered_digest: str
    offered: str
    first_seen: int
    changed: int


class Change(NamedTuple):
    """kind: tool_changed, tool_added, tool_removed or tool_shadows. detail: which fields, or whose
    tool it looks like."""

    kind: str
    tool: str
    detail: str


def digest_of(definition: dict[str, Any]) -> Tool | None:
    """None for what is no tool: a name is needed."""
    name = definition.get("name")
    if not isinstance(name, str) or not name:
        return None
    kept = {key: value for key, value in definition.items() if key != "_meta"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Tool(name, hashlib.sha256(text.encode()).hexdigest(), text[:MAX_DEFINITION])


def fields_changed(before: str, after: str) -> list[str]:
    """Names of the fields that differ; empty where a definition was too long to be kept."""
    try:
        one, other = json.loads(before), json.loads(after)
    except ValueError:
        return []
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


class Pins:
    """path is made when it is not there, with mode 0600. PinError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Before SQLite sees it: its journal takes the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.chmod(path, 0o600)
            self._link = sqlite3.connect(path, timeout=_MIND, isolation_level=None)
            self._link.execute("PRAGMA synchronous=FULL")
            self._link.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise PinError(f"{path}: {error}; repair or remove the file") from None

    def close(self) -> None:
        self._link.close()

    def see(self, server: str, tools: Sequence[Tool], now: int) -> list[Change]:
        """Some of what a server lists. What changes is written and returned once, not each time."""
        changes: list[Change] = []
        if self._nothing_new(server, tools):
            return changes
        with self._writing() as link:
            link.execute(
                "INSERT INTO server (name, first_seen) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (server, now),
            )
            first, learned = link.execute(
                "SELECT first_seen, learned FROM server WHERE name = ?", (server,)
            ).fetchone()
            trusting = not learned and now - first <= LEARN_NS
            (count,) = link.execute(
                "SELECT count(*) FROM pin WHERE server = ?", (server,)
            ).fetchone()
            for tool in tools:
                old = self._one(server, tool.name)
                if old is None:
                    count += 1
                    if count > MAX_TOOLS:
                        detail = f"the server has more than {MAX_TOOLS} tools"
                        changes.append(Change("tool_added", tool.name, detail))
                        continue
                    changes += self._add(server, tool, trusting, now)
                else:
                    changes += self._compare(old, tool, now)
        return changes

    def finish(self, server: str, names: Sequence[str], now: int) -> list[Change]:
        """A whole listing has ended; names: all of it. What is missing was removed."""
        listed = set(names)
        if self._learned(server) and not self._missing(server, listed):
            return []
        with self._writing() as link:
            link.execute("UPDATE server SET learned = 1 WHERE name = ?", (server,))
            gone = self._missing(server, listed)
            for name in gone:
                # One that nobody accepted leaves nothing to be trusted.
                link.execute(
                    "DELETE FROM pin WHERE server = ? AND tool = ? AND digest = ''", (server, name)
                )
                link.execute(
                    "UPDATE pin SET state = 'removed', offered = '', offered_digest = '',"
                    " changed = ? WHERE server = ? AND tool = ?",
                    (now, server, name),
                )
        return [Change("tool_removed", name, "no longer listed") for name in gone]

    def state(self, server: str, tool: str) -> State | Literal["unknown", "new"]:
        """unknown: a known server that never listed it; new: the server is not known yet."""
        with self._reading() as link:
            row = link.execute(
                "SELECT state FROM pin WHERE server = ? AND tool = ?", (server, tool)
            ).fetchone()
            if row:
                return row[0]
        return "unknown" if self._learned(server) else "new"

    def names(self, server: str) -> list[str]:
        """Of the tools that the server lists."""
        with self._reading() as link:
            rows = link.execute(
                "SELECT tool FROM pin WHERE server = ? AND state != 'removed'", (server,)
            ).fetchall()
        return [name for (name,) in rows]

    def text(self, server: str, tool: str) -> str:
        """A tool's definition as it was listed last; '' where it never was."""
        with self._reading():
            pin = self._one(server, tool)
        return (pin.offered or pin.definition) if pin else ""

    def all(self, server: str = "") -> list[Pin]:
        with self._reading() as link:
            rows = link.execute(
                f"SELECT {_COLUMNS} FROM pin WHERE server = ? OR ? = '' ORDER BY server, tool",
                (server, server),
            ).fetchall()
        return [Pin(*row) for row in rows]

    def accept(self, server: str, tool: str, now: int) -> list[str]:
        """Trust what is offered now: of one tool, or of all that wait (''). Names of those."""
        waiting = [
            pin.tool
            for pin in self.all(server)
            if pin.server == server and pin.state in ("changed", "added") and tool in ("", pin.tool)
        ]
        with self._writing() as link:
            link.executemany(
                "UPDATE pin SET state = 'pinned', digest = offered_digest, definition = offered,"
                " offered = '', offered_digest = '', changed = ? WHERE server = ? AND tool = ?",
                [(now, server, name) for name in waiting],
            )
        return waiting

    def forget(self, server: str, tool: str = "") -> int:
        """Drop a pin, or a server with all of its pins, which is then trusted anew. How many."""
        with self._writing() as link:
            if tool:
                done = link.execute(
                    "DELETE FROM pin WHERE server = ? AND tool = ?", (server, tool)
                ).rowcount
            else:
                done = link.execute("DELETE FROM pin WHERE server = ?", (server,)).rowcount
                done += link.execute("DELETE FROM server WHERE name = ?", (server,)).rowcount
        return done

    def _nothing_new(self, server: str, tools: Sequence[Tool]) -> bool:
        """The usual case, which needs no writing."""
        with self._reading() as link:
            known = dict(
                link.execute(
                    "SELECT tool, CASE offered_digest WHEN '' THEN digest ELSE offered_digest END"
                    " FROM pin WHERE server = ? AND state != 'removed'",
                    (server,),
                ).fetchall()
            )
        return bool(tools) and all(known.get(tool.name) == tool.digest for tool in tools)

    def _missing(self, server: str, listed: set[str]) -> list[str]:
        """Tools that were there and are not listed any more."""
        with self._reading() as link:
            rows = link.execute(
                "SELECT tool FROM pin WHERE server = ? AND state != 'removed' ORDER BY tool",
                (server,),
            ).fetchall()
        return [name for (name,) in rows if name not in listed]

    def _learned(self, server: str) -> bool:
        with self._reading() as link:
            row = link.execute("SELECT learned FROM server WHERE name = ?", (server,)).fetchone()
        return bool(row and row[0])

    def _add(self, server: str, tool: Tool, trusting: bool, now: int) -> list[Change]:
        looks = skeleton(tool.name)
        others = self._link.execute(
            "SELECT server, tool FROM pin WHERE skeleton = ? AND (server != ? OR tool != ?)"
            " AND state != 'removed' ORDER BY first_seen LIMIT 3",
            (looks, server, tool.name),
        ).fetchall()
        state, trusted, offered = ("pinned", tool, None) if trusting else ("added", None, tool)
        self._link.execute(
            "INSERT INTO pin (server, tool, state, digest, definition, offered_digest, offered,"
            " skeleton, first_seen, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                server,
                tool.name,
                state,
                *((trusted.digest, trusted.text) if trusted else ("", "")),
                *((offered.digest, offered.text) if offered else ("", "")),
                looks,
                now,
                now,
            ),
        )
        changes = [] if trusting else [Change("tool_added", tool.name, "not in the first listing")]
        if others:
            whose = ", ".join(f"{name!a} of {other!a}" for other, name in others)
            changes.append(Change("tool_shadows", tool.name, f"looks like {whose}"))
        return changes

    def _compare(self, old: Pin, tool: Tool, now: int) -> list[Change]:
        if tool.digest in (old.digest, old.offered_digest):
            back = tool.digest == old.digest and old.state != "pinned"
            if back:
                self._offer(old, "pinned", "", "", now)
            return []
        state: State = "changed" if old.digest else "added"
        self._offer(old, state, tool.digest, tool.text, now)
        fields = fields_changed(old.definition or old.offered, tool.text)
        return [Change(f"tool_{state}", tool.name, ", ".join(fields) or "its definition")]

    def _offer(self, old: Pin, state: State, digest: str, text: str, now: int) -> None:
        self._link.execute(
            "UPDATE pin SET state = ?, offered_digest = ?, offered = ?, changed = ?"
            " WHERE server = ? AND tool = ?",
            (state, digest, text, now, old.server, old.tool),
        )

    def _one(self, server: str, tool: str) -> Pin | None:
        row = self._link.execute(
            f"SELECT {_COLUMNS} FROM pin WHERE server = ? AND tool = ?", (server, tool)
        ).fetchone()
        return Pin(*row) if row else None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._link
        except sqlite3.Error as error:
            raise PinError(f"{self.path}: {error}; repair or remove the file") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as link:
            link.execute("BEGIN IMMEDIATE")
            try:
                yield link
            except BaseException:
                link.execute("ROLLBACK")
                raise
            link.execute("COMMIT")
