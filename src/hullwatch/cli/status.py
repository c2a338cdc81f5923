"""`hullwatch status`: does the agent run, what does it keep up with, what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from hullwatch.cli.errors import ExitCode
from hullwatch.cli.options import CONTROL, DEFAULT_STORE, Json, Store
from hullwatch.cli.show import iso, print_json, safe, short_time, size

__all__ = ["register", "report"]


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(store: Store = DEFAULT_STORE, json: Json = False) -> None:
    """Show what the agent does and what the store holds. Exit code 4: no agent is running."""
    found = report(store)
    if json:
        print_json(found)
    else:
        _print(found)
    if found["agent"] is None:
        raise typer.Exit(ExitCode.AGENT)


def report(store: Path) -> dict[str, Any]:
    """agent (None: not reachable, `why` says so), store, losses, notices, sessions."""
    from hullwatch.control import ControlError, ask
    from hullwatch.store.catalog import Catalog
    from hullwatch.store.lock import holder

    agent, why = None, ""
    try:
        agent = ask(store / CONTROL)
    except ControlError as error:
        why = str(error)
    with Catalog(store) as catalog:
        segments = catalog.segments()
        oldest = [segment.min_time for segment in segments if segment.min_time is not None]
        return {
            "agent": agent,
            "why": why,
            "writer_pid": holder(store),
            "store": {
                "path": str(store),
                "segments": len(segments),
                "events": sum(_rows(segment, store) for segment in segments),
                "bytes": sum(_bytes(segment.path(store)) for segment in segments),
                "state_bytes": _bytes(store / "state.db") + _bytes(store / "state.db-wal"),
                "oldest": iso(min(oldest)) if oldest else None,
                "quarantined": catalog.rows(
                    "SELECT count(*) FROM segments WHERE state='quarantined'"
                )[0][0],
                "findings": catalog.rows("SELECT count(*) FROM findings")[0][0],
            },
            "losses": [
                {"stage": stage, "class": cls, "count": count, "last": iso(last)}
                for stage, cls, count, last in catalog.rows(
                    "SELECT stage, class, sum(count), max(last) FROM losses"
                    " GROUP BY stage, class ORDER BY 3 DESC"
                )
            ],
            "notices": [
                {"time": iso(moment), "kind": kind, "text": text}
                for moment, kind, text in catalog.rows(
                    "SELECT time, kind, text FROM notices ORDER BY id DESC LIMIT 10"
                )
            ],
            "sessions": [
                dict(zip(("session", "started", "tier", "mode", "kernel", "how"), row, strict=True))
                | {"started": iso(row[1])}
                for row in catalog.rows(
                    "SELECT session, started, tier, mode, kernel, how FROM sessions"
                    " ORDER BY session DESC LIMIT 5"
                )
            ],
        }


def _rows(segment: Any, store: Path) -> int:
    """The manifest learns of a tail's rows when it is closed; until then it is read."""
    from hullwatch.store.tail import scan_tail

    if segment.state != "open":
        return int(segment.rows)
    try:
        return scan_tail(segment.path(store)).rows
    except OSError:
        return 0


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _print(found: dict[str, Any]) -> None:
    agent = found["agent"]
    if agent is None:
        print(f"agent     not reachable: {safe(found['why'])}")
    else:
        print("agent     running")
        _tree(agent, "  ")
    kept = found["store"]
    since = f" since {kept['oldest'][:19]}Z" if kept["oldest"] else ""
    print(
        f"store     {safe(kept['path'])}: {kept['events']} events{since},"
        f" {kept['segments']} segments, {size(kept['bytes'])},"
        f" {kept['findings']} findings"
    )
    if kept["quarantined"]:
        print(f"          {kept['quarantined']} damaged segments in quarantine/")
    if not found["losses"]:
        print("losses    none")
    for at, loss in enumerate(found["losses"]):
        print(
            f"{'losses' if not at else '':<9} {loss['count']} x {safe(loss['class'])}"
            f" at {safe(loss['stage'])}, last {loss['last'][:19]}Z"
        )
    for at, notice in enumerate(found["notices"]):
        print(
            f"{'notices' if not at else '':<9} {short_time_text(notice['time'])}"
            f" {safe(notice['kind'])}: {safe(notice['text'])}"
        )


def short_time_text(text: str) -> str:
    return text[:19].replace("T", " ") if text else short_time(None)


def _tree(value: dict[str, Any], indent: str) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{safe(key)}")
            _tree(item, indent + "  ")
        elif isinstance(item, list):
            print(f"{indent}{safe(key):<{max(10 - len(indent), 1)}} {', '.join(map(safe, item))}")
        else:
            shown = size(item) if "bytes" in key and isinstance(item, int) else safe(item)
            print(f"{indent}{safe(key):<20} {shown}")
