"""What baselines cost the rule engine: the same batches with and without them, in one run.

    python bench/baseline_cost.py [--events N] [--rounds N]

Three engines judge the same events of 20 images: the pack without its baseline rules and without
learning; the same with learning; and the whole pack with profiles that are locked half-way.
Prints ns an event (the best of the rounds, taken in turn) and the ratio to the first, for the half
in which most is new and for that in which most is known.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from detect_throughput import make

from hullwatch.context.enriched import Enriched
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load

PACK = Path(__file__).resolve().parent.parent / "rules"


class Blind(Baselines):
    """Learns nothing: what the engine would cost without."""

    def observe(self, enriched: Enriched) -> np.ndarray:
        return np.zeros(len(enriched.batch.events), bool)


def judge(
    rules: RuleSet, baselines: Baselines, batches: list[Enriched], lock: bool
) -> tuple[float, float]:
    """ns an event, of the first half and of the second."""
    engine = Engine(rules, baselines=baselines)
    middle = len(batches) // 2
    spent = [0.0, 0.0]
    for at, batch in enumerate(batches):
        if lock and at == middle:
            moment = int(batch.batch.events["ts"][0]) + int(batch.batch.wall_offset)
            for image in list(baselines.profiles):
                baselines.judge(image, moment, ())
        begun = time.process_time()
        engine.process(batch)
        spent[at >= middle] += time.process_time() - begun
    sizes = [
        sum(batch.batch.events.size for batch in some)
        for some in (batches[:middle], batches[middle:])
    ]
    return spent[0] / sizes[0] * 1e9, spent[1] / sizes[1] * 1e9


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=1_000_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    whole = load([PACK])
    plain = load(
        [
            path
            for path in sorted(PACK.rglob("*.yaml"))
            if path.parent.name != "baseline" and not path.name.endswith(".test.yaml")
        ]
    )
    for files, processes, addresses in ((100, 50, 20), (500, 200, 50), (2_000, 500, 200)):
        batches = make(chosen.events, files, processes, addresses)
        best: dict[str, tuple[float, float]] = {}
        learnt = Baselines()
        for _ in range(chosen.rounds):
            learnt = Baselines()
            for label, rules, baselines, lock in (
                ("without", plain, Blind(), False),
                ("learning", plain, learnt, False),
                ("rules and locks", whole, Baselines(), True),
            ):
                new, known = judge(rules, baselines, batches, lock)
                before = best.get(label, (new, known))
                best[label] = (min(before[0], new), min(before[1], known))
        print(f"{files} files, {processes} processes, {addresses} ends, in 20 containers:")
        for label, costs in best.items():
            told = [
                f"{cost:>7.0f} ns an event ({cost / first:.2f} times)"
                for cost, first in zip(costs, best["without"], strict=True)
            ]
            print(f"  {label:<16} new {told[0]}   known {told[1]}")
        stats = ", ".join(f"{value} {name}" for name, value in learnt.stats().items())
        print(f"  {stats}")


if __name__ == "__main__":
    main()
