"""The end of `hullwatch demo`: what was seen, what was stopped, and what to run next."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullwatch.cli.show import console, safe, size

if TYPE_CHECKING:
    from hullwatch.demo.runc import Container

__all__ = ["print_summary"]


def print_summary(summary: dict[str, Any], store: Path, agent: Container) -> None:
    """agent: whose tree is drawn."""
    out = console()
    out.print("\nWhat happened in the agent's container", style="bold")
    _draw(store, agent)
    out.print("\nIn figures", style="bold")
    for name, value in _figures(summary):
        print(f"  {name:<14}{safe(value)}")
    for line in summary["missing"]:
        out.print(f"  {'MISSING':<14}{safe(line)}", style="bold red")
    _next(summary, store)


def _figures(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    held, gated = summary["held"], summary["gated"]
    counts = ", ".join(f"{count} {name}" for name, count in summary["findings"].items())
    arrived = "with the tokens" if summary["loot_has_token"] else "without a token"
    losses = ", ".join(f"{n} at {where}" for where, n in summary["losses"].items())
    yield "attack", f"{summary['seen']} of {summary['expected']} steps found"
    yield (
        "theft",
        f"{summary['loot_bytes']} bytes reached {summary['loot_to']}, {arrived} in them",
    )
    stop = held["decision"]
    if stop:
        by = f"stopped by {', '.join(stop['policies'])} ({stop['reason']})"
        yield "with policies", f"{held['loot_bytes']} bytes of loot: {by}"
        if stop["tool_call"]:
            yield "", f"in tool call {held['call']} ({stop['tool_call']})"
    yield "", f"the plugin's harmless connection went on: {held['harmless_bytes']} bytes"
    for one in gated["calls"]:
        word = "approved" if one["approved"] else "denied"
        seen = "the server got it" if one["arrived"] else "it never reached the server"
        yield "tool call", f"{one['tool']} was {word} by {gated['answered_by']}: {seen}"
    yield "model server", _quiet(summary["model_server_findings"])
    yield "findings", counts or "none"
    yield "events", f"{summary['events']} read from the kernel"
    yield "lost", losses or "nothing"
    yield (
        "Hullwatch",
        f"{summary['cpu_seconds']:.2f} s of CPU in {summary['seconds']:.1f} s of watching,"
        f" {size(summary['rss_bytes'])} of memory",
    )


def _next(summary: dict[str, Any], store: Path) -> None:
    console().print("\nWhat to run next", style="bold")
    me = _own_name()
    steps = (
        (f"export HULLWATCH_STORE={store}", "where all of this is kept"),
        (f"{me} findings", "each with its id"),
        (f"{me} findings show ID", "one explained: evidence, processes, rule"),
        (f"{me} tree {summary['agent'][:12]}", "the tree above; --files names every file"),
        (f"{me} tree {summary['held']['agent'][:12]}", "the same attack, stopped"),
        *_call(me, summary["held"]["tool_call"]),
        (f"{me} decisions --log {store}", "what policy said, and who answered"),
        (f"{me} tree {summary['model_server'][:12]}", "the model server, for comparison"),
        (
            f"{me} hunt \"SELECT container, name, object FROM events WHERE class = 'connect'\"",
            "any question, in SQL",
        ),
        (f"{me} doctor", "what can be seen on this machine, and what cannot"),
    )
    for command, why in steps:
        if len(command) > 52:
            print(f"  {command}\n  {'':<52}  # {why}")
        else:
            print(f"  {command:<52}  # {why}")


def _call(me: str, ident: str) -> list[tuple[str, str]]:
    first = ident.partition(",")[0]
    return [(f"{me} call {first}", "the tool call that it was in")] if first else []


def _quiet(count: int) -> str:
    return "served a request and read its weights: no finding" if not count else f"{count} findings"


def _draw(store: Path, agent: Container) -> None:
    from hullwatch.cli.events import scope_sql
    from hullwatch.cli.tree import draw
    from hullwatch.store.query import Reader
    from hullwatch.store.story import tell

    with Reader(store, None, None, agent.id) as reader:
        draw(tell(reader, scope_sql(reader.scope)), agent.name)


def _own_name() -> str:
    """How this program was called, as a person would call it again."""
    called = Path(sys.argv[0])
    if called.name != "hullwatch":
        return f"{Path(sys.executable).name} -m hullwatch"
    if shutil.which("hullwatch") == str(called.resolve()):
        return "hullwatch"
    with contextlib.suppress(ValueError):
        return str(called.resolve().relative_to(Path.cwd()))
    return str(called)
