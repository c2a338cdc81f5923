"""Every Falco, Sigma and own rule in one table: `make conformance`.

    python tests/conformance.py [--facts FILE] [--json] [--only falco,sigma,own]

Runs the tests that try each rule (unit and live; root for the live ones) with
HULLWATCH_CONFORMANCE set, so that they write down what they found out rule by rule, and prints:

    loads   the rule compiles, unmodified
    scene   a made event that meets it is found, one that nearly does is not
    live    an act in a real container (or on the host) is found; "-": not tried, see the reason
    near    the act that is one property away is not
    replay  the recording of that run, replayed, gives the same findings

Exit code 1 if any of them is "no" or a rule is missing. With --facts an earlier run's file is read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("loads", "scene", "live", "near_miss", "replay")
HEADS = ("loads", "scene", "live", "near", "replay")
TESTS = {
    "falco": ("tests/live/test_falco.py",),
    "sigma": ("tests/unit/test_detect_sigma_rules.py", "tests/live/test_sigma_rules.py"),
    "own": (
        "tests/unit/test_detect_rules.py",
        "tests/live/test_attacks_pack.py",
        "tests/live/test_baseline_rules.py",
        "tests/live/test_label_rules.py",
    ),
}

Facts = dict[str, Any]


def loaded(content: Iterable[str]) -> dict[tuple[str, str], Facts]:
    """Every rule there is, by (content, name), with whether it loads and why not."""
    from hullwatch.detect.ruleset import load

    shared = ROOT.parent / "shared" / "conformance"
    places = {"falco": shared / "falco", "sigma": shared / "sigma", "own": ROOT / "rules"}
    found: dict[tuple[str, str], Facts] = {}
    for name in content:
        rules = load([places[name]])
        for rule in rules.rules:
            found[name, rule.name] = {"loads": True}
        for error in rules.errors:
            found[name, error.item or str(error.place)] = {"loads": False, "reason": str(error)}
    return found


def run(content: Iterable[str], facts: Path) -> int:
    """The tests; their exit code. They say what went wrong, the table only that it did."""
    files = [one for name in content for one in TESTS[name] if (ROOT / one).exists()]
    env = os.environ | {"HULLWATCH_CONFORMANCE": str(facts)}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *files]
    return subprocess.run(command, cwd=ROOT, env=env, check=False, stdout=sys.stderr).returncode


def read(facts: Path, found: dict[tuple[str, str], Facts]) -> list[str]:
    """Put what the tests wrote into `found`; a "no" is never overwritten by a "yes". Returns rules
    that no file has."""
    strangers = []
    for line in facts.read_text().splitlines():
        said = json.loads(line)
        key = (said.pop("content"), said.pop("rule"))
        rule = found.get(key)
        if rule is None:
            strangers.append(f"{key[0]}: {key[1]}")
            continue
        for name, value in said.items():
            if rule.get(name) is False and name in COLUMNS:
                continue
            if value is not None or name not in rule:
                rule[name] = value
    return strangers


def mark(value: object) -> str:
    return {True: "yes", False: "NO"}.get(value, "-")  # type: ignore[call-overload]


def table(found: dict[tuple[str, str], Facts]) -> None:
    width = max((len(rule) for _, rule in found), default=4)
    print(f"{'':6} {'rule':<{width}}  " + "  ".join(f"{head:<6}" for head in HEADS))
    for (content, rule), facts in found.items():
        cells = "  ".join(f"{mark(facts.get(name)):<6}" for name in COLUMNS)
        print(f"{content:<6} {rule:<{width}}  {cells}  {facts.get('reason') or ''}".rstrip())


def sums(found: dict[tuple[str, str], Facts]) -> None:
    print()
    for content in dict.fromkeys(content for content, _ in found):
        rules = [facts for (of, _), facts in found.items() if of == content]
        parts = []
        for name, head in zip(COLUMNS, HEADS, strict=True):
            values = [facts.get(name) for facts in rules]
            no = f" ({values.count(False)} NO)" if False in values else ""
            parts.append(f"{head} {values.count(True)}{no}")
        print(f"{content}: {len(rules)} rules; {', '.join(parts)}")


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--facts", type=Path, help="what an earlier run wrote, instead of a run")
    options.add_argument("--json", action="store_true", help="one line of JSON a rule")
    options.add_argument("--only", default=",".join(TESTS), help="falco, sigma, own")
    chosen = options.parse_args()
    content = chosen.only.split(",")
    if unknown := set(content) - set(TESTS):
        options.error(f"--only {', '.join(unknown)}: choose from {', '.join(TESTS)}")
    found = loaded(content)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        facts = chosen.facts or Path(folder) / "facts.jsonl"
        if chosen.facts is None:
            facts.touch()
            failed = run(content, facts)
        strangers = [one for one in read(facts, found) if one.partition(":")[0] in content]
    if chosen.json:
        for (of, rule), values in found.items():
            print(json.dumps({"content": of, "rule": rule, **values}))
    else:
        table(found)
        sums(found)
    for one in strangers:
        print(f"tried, but in no rule file: {one}", file=sys.stderr)
    wrong = any(facts.get(name) is False for facts in found.values() for name in COLUMNS)
    return int(bool(failed or wrong or strangers))


if __name__ == "__main__":
    sys.exit(main())
