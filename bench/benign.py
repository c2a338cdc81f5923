"""Precision on a benign day, and recall: what is found in real work that no one here wrote, and in
the attack replicas.

    python bench/benign.py [--quick] [--only NAME ...] [--skip-attacks] [--pack PATH]
                           [--alone] [--json] [--keep STORE]

One agent in detect mode, with our pack and, where they are at hand, Falco's stable and incubating
and Sigma's rules, watches real workloads in runc containers: package managers, databases under
load, git, tests, web servers, MCP servers answering calls, an agent, a developer's terminal.
Findings of our pack that benign.toml does not justify are FALSE POSITIVES. Other people's rules are
shown as they are. Exit status 1: a false positive, more than a handful of findings, an event lost,
a workload that failed, an attack that was not found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agent import ROOT, Agent, falco_rules
from day import accepted, recall, show
from day.image import CACHE, Day, prepare
from day.seen import RuleSets, Seen, look
from day.workloads import DAY, Ran, Workload, run

from hullwatch.cli.status import report
from hullwatch.demo.runc import Network, Runc, delete_all
from hullwatch.demo.scratch import dead_sessions, remove_tree, session_below
from hullwatch.detect.ruleset import load

OWN = "own pack"
HANDFUL = 5  # folded findings of our pack in the whole day, justified ones
STATE = Path("/run/hullwatch-bench")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def rule_sets(pack: Path, *, alone: bool) -> RuleSets:
    """The pack, and what else lies beside the project and can be loaded."""
    paths = {OWN: pack}
    if not alone and (falco := falco_rules()) is not None:
        others = {
            "falco stable": falco / "falco_rules.yaml",
            "falco incubating": falco / "falco-incubating_rules.yaml",
            "sigma": falco.with_name("sigma"),
        }
        paths |= {name: path for name, path in others.items() if load([path]).rules}
    of = {}
    for rule in load(paths.values()).rules:
        at = Path(rule.place.path)
        of[rule.name] = next(name for name, path in paths.items() if at.is_relative_to(path))
    return RuleSets(paths, of)


def settle(agent: Agent) -> None:
    """Until all that has happened is read and judged, and its containers are known."""
    agent.settle()
    until = time.monotonic() + 60
    while agent.status().get("held") and time.monotonic() < until:
        time.sleep(0.2)


def spend(
    workloads: list[Workload], day: Day, agent: Agent, *, quick: bool
) -> list[tuple[Ran, float]]:
    """Run them, one after the other."""
    delete_all(dead_sessions(STATE), Network.prefix)
    for left in dead_sessions(STATE):
        remove_tree(left)
    ran = []
    home = session_below(STATE)
    try:
        with Runc(day.image("day"), home) as runc:
            for number, workload in enumerate(workloads, 1):
                begun = time.monotonic()
                done = run(workload, day, runc, quick=quick)
                ran.append((done, time.monotonic() - begun))
                agent.alive()
                word = f"FAILED ({done.status})\n{done.said}" if done.status else "done"
                say(f"{number:2}/{len(workloads)} {workload.name:14} {ran[-1][1]:6.1f} s  {word}")
    finally:
        remove_tree(home)
    return ran


def cost(agent: Agent, seconds: float) -> dict[str, Any]:
    """What the agent used, by its own account (`hullwatch status --json`)."""
    found = report(agent.store)
    status = found["agent"]
    return {
        "rules": status["rules"],
        "rules_refused": status["rules_refused"],
        "cpu_share": status["cpu_share"],
        "rss_mib": round(status["rss_bytes"] / 2**20, 1),
        "events": status["events"],
        "faults": status["faults"],
        "governor": status["governor"]["level"],
        "notices": [one["text"] for one in found["notices"]],
        "seconds": round(seconds, 1),
    }


def judge(
    seen: list[Seen], losses: list[dict[str, Any]], used: dict[str, Any], attacks: Any
) -> list[str]:
    """What is wrong with the day; nothing if it was as it should be."""
    own = [finding for one in seen for finding in one.findings[OWN]]
    wrong = [f"workload {one.ran.workload.name} failed" for one in seen if one.ran.status]
    wrong += [
        f"FALSE POSITIVE: {one['rule']} ({one['container']})" for one in own if not one["why"]
    ]
    if len(own) > HANDFUL:
        wrong.append(f"{len(own)} findings are more than a handful ({HANDFUL})")
    if lost := sum(one["count"] for one in losses if one["ours"]):
        wrong.append(f"{lost} events were lost")
    if used["faults"]:
        wrong.append(f"faults: {used['faults']}")
    if attacks is not None:
        wrong += [f"attack not found: {name}" for name in attacks.missed]
        if not attacks.found:
            wrong.append("no attack was carried out")
    return wrong


def main() -> int:
    names = [workload.name for workload in DAY]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--skip-attacks", action="store_true", help="only the benign half")
    parser.add_argument(
        "--pack", type=Path, default=ROOT / "rules", help="another pack to judge in place of ours"
    )
    parser.add_argument("--alone", action="store_true", help="load no other people's rules")
    parser.add_argument("--json", action="store_true", help="one JSON value instead of tables")
    parser.add_argument("--keep", type=Path, metavar="STORE", help="keep the agent's store there")
    chosen = parser.parse_args()
    workloads = [
        one
        for one in DAY
        if (one.name in chosen.only if chosen.only else one.quick or not chosen.quick)
    ]
    day = prepare(say)
    sets = rule_sets(chosen.pack, alone=chosen.alone)
    listed = accepted.read(Path(__file__).with_suffix(".toml"))
    with tempfile.TemporaryDirectory(prefix="hullwatch-day-") as folder:
        begun = time.monotonic()
        agent = Agent(Path(folder), rules=list(sets.paths.values()))
        try:
            ran = spend(workloads, day, agent, quick=chosen.quick)
            settle(agent)
            used = cost(agent, time.monotonic() - begun)
        finally:
            agent.stop()
        seen, losses = look(agent.store, ran, sets, listed)
        if chosen.keep:
            agent.store.rename(chosen.keep)
    attacks = None
    if not chosen.skip_attacks:
        say("the attack replicas (a minute or more)")
        attacks = recall.attack(CACHE / "attacks.log")
    wrong = judge(seen, losses, used, attacks)
    if chosen.json:
        print(json.dumps(show.as_json(seen, sets, losses, used, attacks, wrong)))
    else:
        show.tables(seen, sets, losses, used, attacks, wrong, OWN)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
