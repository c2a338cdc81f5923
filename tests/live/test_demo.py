"""`hullwatch demo` does what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hullwatch.demo.scenario import EXPECTED, HELD, HOME
from support.needs import missing
from support.scratch import poll
from support.watch import missing_bpf

# Not a scenario: emulated, it takes minutes, and its attack is one of test_attacks_pack.py.
pytestmark = pytest.mark.timeout(600)
DEMO = [sys.executable, "-m", "hullwatch", "demo"]


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing("runc", "ip", "busybox") or missing_bpf():
        pytest.skip(reason)


def left_behind(pid: int) -> list[str]:
    """What is there of the demo that was this process."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [
        *(line for line in mounts if f"{HOME}/{pid}-" in line),
        *(str(path) for path in HOME.glob(f"{pid}-*")),
        *(str(path) for path in Path("/run/netns").glob(f"hullwatch-demo-{pid}-*")),
    ]


def test_it_finds_its_own_attack_and_cleans_up(tmp_path: Path):
    demo = subprocess.Popen(
        [*DEMO, "--json", "--store", str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
    )
    out, _ = demo.communicate(timeout=500)
    assert demo.returncode == 0, out
    lines = [json.loads(line) for line in out.splitlines()]
    summary = lines[-1]["summary"]
    assert (summary["missing"], summary["losses"]) == ([], {})
    assert summary["loot_has_token"]
    # It watches all of the host: what else happens there is not the demo's.
    found = [
        line["finding"]["rule"]
        for line in lines
        if "finding" in line and line["finding"]["container_full_id"] == summary["agent"]
    ]
    assert set(found) == set(EXPECTED)
    assert set(summary["held"]["findings"]) == set(HELD)
    stop = summary["held"]["decision"]
    assert (stop["policies"], stop["resource"]) == (["secrets-stay"], "Address:203.0.113.7:443")
    assert stop["tool_call"] and summary["held"]["call"] == "reports: summarise_report"
    assert summary["held"]["loot_bytes"] == 0 < summary["held"]["harmless_bytes"]
    gated = summary["gated"]
    assert gated["answered_by"] == "the demo itself"
    answers = [(one["tool"], one["approved"], one["arrived"]) for one in gated["calls"]]
    assert answers == [("archive_report", True, True), ("delete_report", False, False)]
    assert left_behind(demo.pid) == []


@pytest.mark.parametrize("moment", ["images", "Hullwatch"])
def test_interrupted_it_cleans_up(tmp_path: Path, moment: str):
    store = tmp_path / "store"
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(
            [*DEMO, "--stay", "--json", "--store", str(store)], stdout=out, stderr=out
        )
    try:
        if moment == "images":
            poll(
                lambda: any(HOME.glob(f"{demo.pid}-*/images")),
                seconds=120,
                waiting_for="its images",
            )
        else:
            poll(
                lambda: "answers" in (tmp_path / "out").read_text(),
                seconds=300,
                waiting_for="the agent's answer",
            )
        demo.send_signal(signal.SIGINT)
        # 0: it was already watching on, and Ctrl-C is how that ends.
        assert demo.wait(120) in (0, 130)
    finally:
        demo.kill()
        demo.wait()
    assert left_behind(demo.pid) == []
    assert not any(
        os.fsencode(store) in Path(entry, "cmdline").read_bytes()
        for entry in Path("/proc").glob("[0-9]*")
        if entry.exists()
    )
