"""How long decisions take, and what policies slow down; all of it beside no policy:

    python bench/decisions.py [--only PART...] [--rounds N] [--json]          (root)

kernel   exec, open and connect with 10, 100 and 1,000 policies; a decision; new containers and
         sets (`bench/guard.py`)
cedar    a decision of the engine: a question that is new, so that Cedar is asked; the same again
gateway  a tool call without a gateway, through one without policies, and with policies that allow
         it: the same tool each time, and a tool that nobody called before each time
held     from an action until it is listed, from the approval until it goes on (`bench/held.py`)

All parts take turns, round by round; shown are medians over the rounds of p50 and p99, and ratios
within a round. The same in a guest with BPF LSM, where only ratios mean anything:

    tests/vm/run.py --kernel 6.12 -- env PYTHONPATH=src:tests .venv/bin/python bench/decisions.py
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import held
from decide import question, texts
from figures import Figures, Kind, cut, in_turns
from gateway import GATEWAY, WARM, Call, measure, stdio
from guard import SIZES, place, turn

from hullwatch.decide.engine import Engine

ASKED = Kind("a new question, Cedar is asked", "µs")
AGAIN = Kind("the same question again", "µs")
CALL = Kind("a tool call over stdio", "µs")
BASE = "gateway, no policy"
QUESTIONS = 1_000
BLOCKS = 5  # of a round's calls, in which the ways take turns


def cedar(figures: Figures) -> None:
    """As the gateway asks, without the gateway."""
    for size in SIZES:
        engine = Engine.of([("\n".join(texts(size)), "bench.cedar")])
        for kind in (ASKED, AGAIN):
            took = []
            for number in range(QUESTIONS):
                one = question(number)
                began = time.perf_counter_ns()
                engine.decide(one)
                took.append(time.perf_counter_ns() - began)
            figures.add(kind, f"{size:,} policies", cut(took))


def gateway(count: int, figures: Figures) -> None:
    asyncio.run(_gateway(count, figures))


async def _gateway(count: int, figures: Figures) -> None:
    """One round; each way has a gateway and a server of its own."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plans = {"no gateway": [], BASE: GATEWAY}
        for size in SIZES:
            path = folder / f"{size}.cedar"
            path.write_text("\n".join(texts(size)))
            log = folder / f"log-{size}"
            plans[f"{size:,} policies"] = [*GATEWAY, "--policy", str(path), "--log", str(log)]
        async with AsyncExitStack() as stack:
            calls: dict[str, Call] = {}
            for way, command in plans.items():
                started = stdio(command, 200, str(folder))
                calls[way], _ = call, _ = await stack.enter_async_context(started)
                if "policies" in way:
                    calls[f"{way}, a new tool each time"] = partial(_new_tool, call)
            took: dict[str, list[float]] = {way: [] for way in calls}
            ident = 0
            for block in range(BLOCKS + 1):
                for way, call in calls.items():
                    some = await measure(call, count // BLOCKS if block else WARM, 1, ident)
                    ident += len(some)
                    took[way] += some if block else []
    cuts = {way: cut([one * 1e9 for one in times]) for way, times in took.items()}
    for way, one in cuts.items():
        figures.add(CALL, way, one, cuts[BASE])


async def _new_tool(call: Call, ident: int) -> None:
    await call(ident, f"echo{ident}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("kernel", "cedar", "gateway", "held")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4_000, help="opens and connects; execs: 1/20")
    parser.add_argument("--kinds", type=int, default=5, help="of new containers in a round")
    parser.add_argument("--tool-calls", type=int, default=500, help="of each way in a round")
    parser.add_argument("--actions", type=int, default=20, help="that are held, of each way")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = Figures()
    with place() as (group, folder):
        made: dict[str, list[tuple[str, Callable[[], None]]]] = {
            "kernel": [
                ("kernel", partial(turn, group, folder, options.calls, options.kinds, figures))
            ],
            "cedar": [("cedar", partial(cedar, figures))],
            "gateway": [("gateway", partial(gateway, options.tool_calls, figures))],
            "held": held.parts(options.actions, figures),
        }
        in_turns(options.rounds, [part for name in options.only for part in made[name]])
    figures.show(options.rounds, options.json)


if __name__ == "__main__":
    main()
