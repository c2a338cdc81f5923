"""What an agent's store says of a drive: the calls that it knows, and whose each event is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hullwatch.store.calls import rows
from hullwatch.store.query import Reader
from support.peers.score import Attribution, Identity, Kind, Score, SeenCall, identify, score
from support.peers.truth import Truth

__all__ = ["attributed"]

_KINDS: dict[str, Kind] = {"exec": "process", "open": "file", "connect": "destination"}
_EVENTS = """
SELECT e.boot, e.mono, e.tid, e.class, e.object, e.cmdline, e.pid, epoch_ns(e.time) AS time,
    list(s.call) FILTER (s.call IS NOT NULL) AS calls
FROM events e LEFT JOIN spans s USING (span)
WHERE e.class IN ('exec', 'open', 'connect') AND e.time >= make_timestamptz($1::BIGINT)
    AND (e.ret >= 0 OR e.class = 'connect')
GROUP BY ALL
"""


def attributed(store: Path, truths: Sequence[Truth]) -> tuple[Identity, Score]:
    """Of the calls of one drive; the store may hold others, of other times."""
    since = min(truth.begin for truth in truths) - 1_000_000_000
    until = max(truth.end for truth in truths) + 5_000_000_000
    with Reader(store) as reader:
        moment = f"make_timestamptz({since // 1000}::BIGINT)"
        seen, more = rows(reader, f"begun >= {moment} AND kind = 'tool'", 10_000)
        assert not more
        events: list[dict[str, Any]] = reader.query(
            _EVENTS, since // 1000, limit=2_000_000
        ).table.to_pylist()
    calls = [
        SeenCall(
            one.id,
            one.name,
            str(one.attributes.get("jsonrpc.request.id", "")),
            int(one.begun.timestamp() * 1e6) * 1000,
            int(one.ended.timestamp() * 1e6) * 1000 if one.ended else 0,
        )
        for one in seen
    ]
    who = identify(truths, calls)
    said = [
        Attribution(
            _KINDS[row["class"]],
            row["cmdline" if row["class"] == "exec" else "object"] or "",
            row["pid"],
            tuple(row["calls"] or ()),
            row["time"],
        )
        for row in events
        if row["time"] <= until
    ]
    return who, score(truths, said, who.of)
