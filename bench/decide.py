"""What a decision costs, and what that depends on:

    .venv/bin/python bench/decide.py [--questions N] [--rounds N] [--json]

Synthetic sets of 10, 100 and 1,000 policies, spread over four actions, each about its own tools,
programs or hosts; questions that are all distinct (`asked`), then the same again (`cached`).
Beside them Cedar alone with one parsed set of the same policies (`cedar`), and with their text
(`cedar, text`): what `asked` adds to it or saves. Times are of the processor, µs a decision, the
median of the rounds; ratios are to `asked` of the same set. `load` is ms for reading and checking.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cedarpy

from hullwatch.decide.engine import Engine
from hullwatch.decide.question import Entity, Question

SIZES = (10, 100, 1_000)
KINDS = (
    ("tool-call", "Tool", 'resource.name == "tool{n}" && context.labels.contains("secret")'),
    ("exec", "Binary", 'resource.name == "program{n}" && context.labels.contains("untrusted")'),
    ("connect", "Host", 'resource.name like "*.host{n}.example" && context.hour > 20'),
    ("open-read", "Path", 'resource.path like "/srv/area{n}/*" && context.weekday == "sun"'),
)


def texts(size: int) -> list[str]:
    return [
        f'@id("p{n}") @reason("synthetic")'
        f' forbid (principal is Agent, action == Action::"{action}", resource is {kind})'
        f" when {{ {condition.format(n=n)} }};"
        for n in range(size)
        for action, kind, condition in (KINDS[n % len(KINDS)],)
    ]


def question(n: int) -> Question:
    return Question(
        principal=Entity("Agent", f"agent{n % 7}"),
        action="tool-call",
        resource=Entity("Tool", f"files/tool{n}x"),
        context={
            "labels": ("private", "untrusted"),
            "tool_call": "read_file",
            "server": "files",
            "image": "ghcr.io/acme/agent:1",
            "hour": 12,
            "weekday": "mon",
        },
    )


def plain(one: Question, policies: str | cedarpy.PolicySet) -> None:
    """The same question, all of its attributes."""
    name = one.resource.id.partition("/")[2]
    cedarpy.is_authorized(
        {
            "principal": {"type": one.principal.kind, "id": one.principal.id},
            "action": {"type": "Action", "id": one.action},
            "resource": {"type": one.resource.kind, "id": one.resource.id},
            "context": {**one.context, "labels": list(one.context["labels"])},  # type: ignore[arg-type]
        },
        policies,
        [
            {
                "uid": {"type": "Tool", "id": one.resource.id},
                "attrs": {"name": name, "lower": name, "server": "files"},
                "parents": [],
            }
        ],
    )


def cost(questions: list[Question], ask: Callable[[Question], object]) -> float:
    """µs a question."""
    began = time.process_time_ns()
    for one in questions:
        ask(one)
    return (time.process_time_ns() - began) / len(questions) / 1000


def measure(size: int, count: int, rounds: int) -> dict[str, Any]:
    written = texts(size)
    began = time.process_time_ns()
    Engine.of([("\n".join(written), "bench.cedar")])
    load = (time.process_time_ns() - began) / 1e6
    whole = "\n".join(written)
    handle = cedarpy.PolicySet.from_str(whole)
    questions = [question(n) for n in range(count)]
    found: dict[str, list[float]] = {}
    policies = Engine.of([(whole, "bench.cedar")]).policies.values()
    for _ in range(rounds):
        engine = Engine(policies)
        found.setdefault("asked", []).append(cost(questions, engine.decide))
        found.setdefault("cached", []).append(cost(questions, engine.decide))
        assert engine.cache.hits == len(questions)
        found.setdefault("cedar", []).append(cost(questions, lambda one: plain(one, handle)))
        few = questions[: max(1, count // 20)]
        found.setdefault("cedar, text", []).append(cost(few, lambda one: plain(one, whole)))
    row: dict[str, Any] = {"policies": size, "load_ms": round(load, 1)}
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        row |= {name: round(median, 1), f"{name} ratio": round(median / medians["asked"], 2)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = ("asked", "cached", "cedar", "cedar, text")
    if not options.json:
        print(f"{'policies':>8}  {'load ms':>8}" + "".join(f"  {name:>18}" for name in names))
    for size in SIZES:
        row = measure(size, options.questions, options.rounds)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        cells = "".join(f"  {row[name]:>9.1f} ({row[f'{name} ratio']:>6.2f})" for name in names)
        print(f"{size:>8,}  {row['load_ms']:>8.1f}{cells}", flush=True)


if __name__ == "__main__":
    main()
