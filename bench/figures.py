"""What benchmarks measure in rounds, and how it is shown: p50, p99 and ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["Cut", "Figures", "Kind", "cut", "in_turns", "note"]

_NS = {"ns": 1, "µs": 1e3, "ms": 1e6}


class Kind(NamedTuple):
    """What is timed in several ways."""

    name: str
    unit: str


class Cut(NamedTuple):
    """Of one round, in ns; n: of how many."""

    p50: float
    p99: float
    n: int

    def beyond(self, usual: float) -> Cut:
        """How much longer than this."""
        return Cut(self.p50 - usual, self.p99 - usual, self.n)


def cut(times: Sequence[float]) -> Cut:
    """Of one time or more."""
    some = times if len(times) > 1 else [*times, *times]
    cuts = statistics.quantiles(some, n=100, method="inclusive")
    return Cut(cuts[49], cuts[98], len(times))


class Figures:
    """Rounds of each kind and way; medians over the rounds."""

    def __init__(self) -> None:
        self._rounds: dict[Kind, dict[str, list[tuple[Cut, Cut | None]]]] = {}
        self.head: dict[str, Any] = {}
        """What stands before them."""
        self.missing: dict[str, str] = {}
        """What could not be measured, and why."""

    def add(self, kind: Kind, way: str, one: Cut, base: Cut | None = None) -> None:
        """One round's. base: what took turns with it, for ratios."""
        self._rounds.setdefault(kind, {}).setdefault(way, []).append((one, base))

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for kind, ways in self._rounds.items():
            for way, cuts in ways.items():
                scale = _NS[kind.unit]
                ones = [one for one, _ in cuts]
                row: dict[str, Any] = {"what": kind.name, "way": way, "unit": kind.unit}
                row["p50"] = round(statistics.median(one.p50 for one in ones) / scale, 2)
                row["p99"] = round(statistics.median(one.p99 for one in ones) / scale, 2)
                row["count"] = sum(one.n for one in ones)
                for name in ("p50", "p99"):
                    ratios = [getattr(one, name) / getattr(to, name) for one, to in cuts if to]
                    if ratios:
                        row[f"{name}_ratio"] = round(statistics.median(ratios), 3)
                found.append(row)
        return found

    def show(self, rounds: int, as_json: bool) -> None:
        """On stdout."""
        rows = self.rows()
        head = {**self.head, **_machine(), "rounds": rounds}
        if as_json:
            print(json.dumps({**head, "rows": rows, "not measured": self.missing}))
            return
        print(", ".join(f"{name} {value}" for name, value in head.items()))
        title = ""
        for row in rows:
            if row["what"] != title:
                title = row["what"]
                said = "  ratio of p50, p99" if "p50_ratio" in row else ""
                heading = f"{title}, {row['unit']}"
                print(f"{heading:<58}{'p50':>10}{'p99':>11}{said}")
            ratios = [f"{row[name]:.2f}" for name in ("p50_ratio", "p99_ratio") if name in row]
            line = f"  {row['way']:<56}{row['p50']:>10,.2f}{row['p99']:>11,.2f}  "
            print((line + ", ".join(ratios)).rstrip())
        for name, why in self.missing.items():
            print(f"not measured: {name}: {why}")


def _machine() -> dict[str, Any]:
    """What figures are worth."""
    load = round(os.getloadavg()[0], 1)
    return {"Linux": platform.release(), "CPUs": os.cpu_count(), "load": load}


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def in_turns(rounds: int, parts: Iterable[tuple[str, Callable[[], None]]]) -> None:
    """Each round all parts, one after the other."""
    for number in range(rounds):
        for name, turn in parts:
            note(f"round {number + 1} of {rounds}: {name}")
            turn()
