"""What a back-test finds in the store is what the agent found when it happened.

The pack's attacks in a real container under the whole agent, in detect mode and in record mode; the
same rules over the store then give the same findings: rule, container, object, first time, count.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hullwatch.detect.ruleset import load
from hullwatch.replay import Replay
from hullwatch.store.history import History
from live.test_attacks_pack import ATTACKS, Attack, done, drive
from support.agent import PACK, Agent
from support.images import Image
from support.needs import missing
from support.runc import Container, Network, Runc
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(900)

PLAIN = [attack for attack in ATTACKS if not attack.privileged and not attack.told]
LATER = """
- rule: Later
  desc: A rule that nobody had when it happened.
  condition: evt.type in (open, openat) and fd.name = /srv/app/main.py and container.name = agent
  output: read %fd.name by %proc.cmdline in %container.image
  priority: NOTICE
"""
Told = dict[str, tuple[Any, ...]]


@dataclass
class Happened:
    store: Path
    rules: list[Path]
    record: bool
    container: Container
    findings: list[dict[str, Any]]
    losses: list[Any]


@pytest.fixture(scope="module", params=[False, True], ids=["detect", "record"])
def happened(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    python_image: Image,
) -> Iterator[Happened]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("backtest")
    store = folder / "store"
    with Runc(python_image) as runc, Network("then") as network:
        for address in ("203.0.113.7", "203.0.113.9", "169.254.169.254"):
            network.add_address(f"{address}/32")
        with Agent(store, record=request.param, rings=_ROOM) as agent:
            attacks = [*PLAIN, Attack("reader", 'open("/srv/app/main.py").read()', {})]
            container = drive(runc, python_image, "agent", folder, attacks, network=network.path)
            done(container, attacks)
            agent.settle()
            losses = agent.query("SELECT * FROM losses")
        with History(store).catalog as catalog:
            rows = catalog.rows("SELECT body, count, first, last FROM findings")
        found = [
            json.loads(body) | {"count": count, "first": first, "last": last}
            for body, count, first, last in rows
        ]
        fence = store.with_name("store-fence.yaml")
        yield Happened(store, [PACK, fence], request.param, container, found, losses)


_ROOM = {"bulk": 64 << 20, "strings": 64 << 20}


def told(finding: dict[str, Any]) -> tuple[Any, ...]:
    names = ("rule", "container_full_id", "object", "first", "last", "count", "output")
    return tuple(finding[name] for name in names)


def cli(happened: Happened, *words: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "hullwatch", "backtest", *map(str, words), "--json"]
    command += ["--store", str(happened.store)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return ended.returncode, rows, ended.stderr


def test_the_same_rules_find_the_same(happened: Happened):
    assert happened.losses == [], "a busy machine lost events: the comparison would say nothing"
    history = History(happened.store)
    now: Told = {}
    for run in history.runs():
        for findings in Replay(run, load(happened.rules)):
            now |= {one.id: told(msgspec.to_builtins(one)) for one in findings}
        assert (run.strangers, run.partial, run.gone) == (0, 0, [])
    history.close()
    then = {one["id"]: told(one) for one in happened.findings}
    rules = {rule for attack in PLAIN for rule in attack.found}
    assert rules <= {one["rule"] for one in happened.findings}
    assert now == then


def test_the_command_says_that_nothing_differs(happened: Happened):
    code, rows, said = cli(happened, *happened.rules, "--against", "findings")
    assert [row for row in rows if row["kind"] in ("added", "removed")] == [], said
    assert code == 0, said
    (summary,) = [row for row in rows if row["kind"] == "summary"]
    assert summary["sessions"][0]["mode"] == ("record" if happened.record else "detect")
    assert summary["sessions"][0]["same_rules"] is True
    assert summary["counted"] == [], "what these rules had counted cannot have met them"
    assert summary["matches"] == sum(one["count"] for one in happened.findings)


def test_a_rule_that_came_later(happened: Happened, tmp_path: Path):
    """Found where all was kept; else it is said that it may have met what was only counted."""
    rules = tmp_path / "later.yaml"
    rules.write_text(LATER)
    code, rows, said = cli(happened, rules, "--container", "agent")
    assert code == 0, said
    found = [row for row in rows if row["kind"] == "rule"]
    (summary,) = [row for row in rows if row["kind"] == "summary"]
    if happened.record:
        (line,) = found
        assert (line["rule"], line["workload"]) == ("Later", "agent")
        assert line["matches"] >= 1
        outputs = [sample["output"] for sample in line["samples"]]
        assert any("read /srv/app/main.py by python3" in output for output in outputs), outputs
        return
    counted = [one for one in summary["counted"] if one["rule"] == "Later"]
    assert found or "/srv/app/main.py" in [name for one in counted for name in one["objects"]], said


def test_what_a_baseline_suggests_would_have_stopped_nothing(happened: Happened, tmp_path: Path):
    """Learnt from what a real container did; and a policy that forbids some of it says so."""
    policies = tmp_path / "agent.cedar"

    def ask(*words: str | Path) -> tuple[int, list[dict[str, Any]], str]:
        command = [sys.executable, "-m", "hullwatch", *map(str, words), "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        rows = [json.loads(line) for line in ended.stdout.splitlines()]
        return ended.returncode, rows, ended.stderr

    store = ("--store", happened.store)
    suggest = ("policy", "suggest", "agent", "-o", policies, *store)
    (image,) = [row["image"] for row in ask("baseline", "list", *store)[1] if row["entries"]]
    assert ask("baseline", "learn", image, "--since", "1h", *store)[0] == 0
    code, (made,), said = ask(*suggest)
    assert code == 0 and made["workloads"] == ["agent"] and made["seen"]["exec"] > 3, said
    assert ask("policy", "check", policies)[0] == 0 and ask("policy", "test", policies)[0] == 0
    code, rows, said = ask("policy", "backtest", policies, *store)
    assert (code, rows[:-1]) == (0, []), said
    assert rows[-1]["events"] > 20 and rows[-1]["asked"] > 20

    policies.write_text(
        '@id("no-python") @mode("observe") forbid (principal, action == Action::"exec", resource)'
        ' when { resource.name like "python3*" };'
    )
    code, (line, _), said = ask("policy", "backtest", policies, *store, "--workload", "agent")
    assert code == 1 and line["policies"] == ["no-python"] and line["workload"] == "agent", said
    assert line["examples"][0]["pid"] and "python3" in line["examples"][0]["object"]
