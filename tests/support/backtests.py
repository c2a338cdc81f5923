"""What a back-test of a store's history finds, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hullwatch.backtest import Backtest, Tally
from hullwatch.detect.ruleset import load

__all__ = ["found_again"]


class _Everything(Tally):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, str, str]] = set()

    def add(self, findings: Iterable[Any]) -> None:
        self.found |= {(one.container_full_id, one.rule, one.object) for one in findings}


def found_again(store: Path, rules: Sequence[Path]) -> set[tuple[str, str, str]]:
    """(container's full id, rule, object)."""
    tally = _Everything()
    test = Backtest(store, [load(rules)])
    try:
        test.tallies = [tally]
        test.run()
    finally:
        test.close()
    return tally.found
