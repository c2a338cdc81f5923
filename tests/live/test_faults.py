"""What goes wrong while real containers are watched: what is kept, what is said of it.

The store's own faults are taken apart in tests/unit/test_store_faults.py; here the whole agent has
them, and a person looks at the result with the command line.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hullwatch.cli.alert import chain_of
from hullwatch.cli.errors import ExitCode
from hullwatch.detect.fold import LOUD
from support.agent import PACK, Agent
from support.bundles import Mount
from support.images import Image
from support.needs import in_vm, missing
from support.runc import Container, Runc
from support.scratch import poll
from support.watch import missing_bpf

# Scenarios are those that depend on the kernel; the others would take minutes, emulated.
pytestmark = pytest.mark.timeout(600)

RULE = "Agent instructions written by another program"
LETTERS = str.maketrans("0123456789", "abcdefghij")  # numbers would fold into one finding
# Writes a file that a rule is about each time that a number appears in /ctl, named by it; in a
# process that lives through all of the test. Looking (stat) is no event.
PATIENT = """
import os, time
letters = str.maketrans("0123456789", "abcdefghij")
os.makedirs("/srv", exist_ok=True)
print("ready", flush=True)
number = 0
while True:
    if os.path.exists(f"/ctl/{number}"):
        folder = "/srv/" + str(number).translate(letters)
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/CLAUDE.md", "w") as file:
            file.write("obey")
        print("wrote", number, flush=True)
        number += 1
    time.sleep(0.01)
"""
# The same as fast as it can, among opens of other files.
STORM = """
import os, itertools
letters = str.maketrans("0123456789", "abcdefghij")
for number in itertools.count():
    folder = "/srv/" + str(number).translate(letters)
    os.makedirs(folder, exist_ok=True)
    for other in range(20):
        open("/etc/hostname").close()
    with open(folder + "/CLAUDE.md", "w") as file:
        file.write("obey")
"""


@pytest.fixture(autouse=True)
def _needs() -> None:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)


class Patient:
    """A container that attacks once when it is told to."""

    def __init__(self, runc: Runc, image: Image, folder: Path, name: str = "patient") -> None:
        self.ctl = folder / "ctl"
        self.ctl.mkdir()
        self.number = 0
        self.container = runc.start(
            ["python3", "-c", PATIENT],
            name=name,
            image=image,
            mounts=[Mount(self.ctl, "/ctl")],
        )
        self.container.wait_for_output("ready", 120)

    def attack(self) -> str:
        """The path of the file that it wrote, which is the finding's object."""
        number, self.number = self.number, self.number + 1
        (self.ctl / str(number)).touch()
        self.container.wait_for_output(f"wrote {number}\n", 120)
        return f"/srv/{str(number).translate(LETTERS)}/CLAUDE.md"


@pytest.fixture
def patient(runc: Runc, python_image: Image, tmp_path: Path) -> Patient:
    return Patient(runc, python_image, tmp_path)


@contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """A small file system of its own."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "hwtest", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def cli(store: Path, *argv: str, code: int = 0) -> str:
    """What `hullwatch ARGV` shows: both streams, as a terminal would get them."""
    done = subprocess.run(
        [sys.executable, "-m", "hullwatch", *argv, "--store", store],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
        check=False,
    )
    text = done.stdout.decode("utf-8", "strict")
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def objects(agent: Agent, container: Container, rule: str = RULE) -> list[str]:
    return [one["object"] for one in agent.stored(container.id) if one["rule"] == rule]


def notices(agent: Agent) -> dict[str, str]:
    rows = agent.query("SELECT kind, text FROM notices ORDER BY id")
    return {row["kind"]: row["text"] for row in rows}


# --- the agent is killed ------------------------------------------------------------------


def test_killed_in_mid_storm_it_loses_no_finding_and_knows_all_after_restart(
    tmp_path: Path, runc: Runc, python_image: Image, patient: Patient
):
    store = tmp_path / "store"
    agent = Agent(store)
    first = patient.attack()
    storm = runc.start(["python3", "-c", STORM], name="storm", image=python_image)

    def told() -> dict[str, dict[str, Any]]:
        """Findings of the storm that somebody has been told of."""
        found = list(agent.findings.items())
        return {ident: one for ident, one in found if one["container_full_id"] == storm.id}

    def times(found: dict[str, dict[str, Any]]) -> int:
        return sum(one["count"] for one in found.values())

    # Long enough for what is written every second to have been written. Names of ever new shapes:
    # twenty findings of their own, and one of all others.
    began = time.monotonic()
    poll(
        lambda: len(told()) > LOUD and times(told()) >= 100 and time.monotonic() - began > 3,
        seconds=200,
        waiting_for="a hundred attacks found",
    )
    agent.kill()
    published = told()
    storm.kill()

    # All of them are there, to be read although nobody ended the store in order.
    kept = {one["id"]: one for one in agent.stored()}
    assert published.keys() <= kept.keys()
    assert all(kept[ident]["count"] >= one["count"] for ident, one in published.items())
    assert len(published) == LOUD + 1 and sum(bool(one["shapes"]) for one in kept.values()) == 1
    assert objects(agent, patient.container) == [first]
    # Bulk is written every second: what was seen before the last one of them is there.
    flushed = agent.query(
        "SELECT count(*) AS n FROM events WHERE container = 'storm' AND class = 'exec'"
    )
    assert flushed[0]["n"] >= 1

    with Agent(store) as agent:
        assert "ended without a goodbye" in notices(agent)["killed"]
        sessions = agent.query("SELECT how FROM sessions ORDER BY session")
        assert [row["how"] for row in sessions] == ["killed", None]
        # A process from before the restart: its container, its parent, its command line.
        second = patient.attack()
        agent.settle()
        assert objects(agent, patient.container) == [first, second]
        before, after = [one for one in agent.stored(patient.container.id) if one["rule"] == RULE]
        assert after["container_name"] == "patient"
        assert after["image"] == patient.container.image.reference
        assert after["processes"][0]["pid"] == patient.container.pid
        chains = [[p["pid"] for p in chain_of(finding)] for finding in (before, after)]
        assert chains[0] == chains[1] == [patient.container.pid]
        shown = cli(store, "status")
        assert "ended without a goodbye" in shown


def test_ended_in_order_it_says_so(tmp_path: Path, patient: Patient):
    agent = Agent(tmp_path / "store")
    path = patient.attack()
    # Not settled: what is in the rings when it is told to end is taken too.
    assert agent.stop() == 0
    assert objects(agent, patient.container) == [path]
    assert agent.query("SELECT how FROM sessions")[0]["how"] == "stopped"
    assert "no agent is running" in cli(agent.store, "status", code=ExitCode.AGENT)


# --- the disk -----------------------------------------------------------------------------


def test_disk_full_keeps_findings_and_counts_what_it_drops(
    tmp_path: Path, runc: Runc, python_image: Image, patient: Patient
):
    (tmp_path / "other").mkdir()
    other = Patient(runc, python_image, tmp_path / "other", "other")
    with disk(tmp_path / "disk", "64m") as place, Agent(place / "store") as agent:
        first = patient.attack()
        agent.settle()
        ballast = place / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(65536))

        def stalled() -> bool:
            patient.attack()
            return bool((agent.status() or {"store": {}})["store"].get("stalled"))

        poll(stalled, seconds=120, waiting_for="the agent to meet the full disk")
        last = other.attack()
        agent.settle()
        # Told at once to whoever follows, and to be read, though SQLite could not take it.
        assert (other.container.id, last) in {
            (one["container_full_id"], one["object"]) for one in agent.findings.values()
        }
        assert last in cli(agent.store, "findings", "--container", "other", "-n", "1000")
        assert agent.process.poll() is None, (agent.process.poll(), agent.words())
        assert "No space left" in cli(agent.store, "status")
        ballast.unlink()
        poll(
            lambda: not (agent.status() or {"store": {}})["store"].get("stalled"),
            seconds=120,
            waiting_for="the agent to write again",
        )
        patient.attack()
        agent.settle()

        def times() -> int:
            """Above some number of them, several are one finding."""
            found = agent.stored(patient.container.id)
            return sum(one["count"] for one in found if one["rule"] == RULE)

        poll(
            lambda: times() == patient.number,
            seconds=60,
            waiting_for="all that was found in the store",
        )
        assert objects(agent, patient.container)[0] == first
        assert objects(agent, other.container) == [last]
        poll(
            lambda: "resumed" in notices(agent),
            seconds=60,
            waiting_for="a notice that it can be written again",
        )
        said = notices(agent)
        assert "No space left" in said["stalled"]
        lost = int(re.findall(r"(\d+) events were lost", said["resumed"])[0])
        counted = agent.query("SELECT sum(count)::INT AS n FROM losses WHERE stage = 'store'")
        assert lost and counted[0]["n"] == lost
        assert f"{lost}" in cli(agent.store, "status")


def test_a_read_only_store_is_refused_with_the_mend(tmp_path: Path):
    with disk(tmp_path / "disk", "8m") as place:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        said = cli(place / "store", "up", code=ExitCode.STORE)
        assert "read-only; remount it writable or choose another --store" in said


def test_a_corrupt_segment_is_named_and_the_rest_is_shown(tmp_path: Path, patient: Patient):
    store = tmp_path / "store"
    for _ in range(2):
        with Agent(store) as agent:
            patient.attack()
            agent.settle()
        segment = sorted((store / "tail").glob("*"))[-1]  # sealed, not yet compacted
    data = bytearray(segment.read_bytes())
    # A quarter of the file: a few bytes might lie where nothing is kept.
    middle, quarter = len(data) // 2, len(data) // 4
    data[middle : middle + quarter] = b"\xa5" * quarter
    segment.write_bytes(data)
    shown = cli(store, "events", "--container", "patient", "--class", "open", "-n", "10000")
    assert segment.name in shown
    assert "/srv/a/CLAUDE.md" in shown  # of the other session
    with Agent(store) as agent:
        path = patient.attack()
        agent.settle()
        assert len(objects(agent, patient.container)) == patient.number
        assert path in cli(store, "findings")


# --- the rings ----------------------------------------------------------------------------


def test_a_ring_too_small_loses_bulk_only_and_counts_it_to_the_end(
    tmp_path: Path, runc: Runc, python_image: Image
):
    count = 20_000
    code = f"for _ in range({count}): open('/etc/hostname').close()\nopen('/work.md', 'w').close()"
    options: dict[str, Any] = {"record": True, "cpu_budget": 1.0}  # the governor would count, too
    with Agent(tmp_path / "store", rings={"bulk": 4096}, **options) as agent:
        storm = runc.run(
            ["sh", "-c", f'/bin/true first; python3 -c "{code}"; /bin/true last; :'],
            name="storm",
            image=python_image,
            seconds=300,
        )
        assert storm.status == 0, storm.stderr
    where = "container = 'storm'"
    stored = agent.query(
        f"SELECT count(*)::INT AS n FROM events WHERE {where} AND object = '/etc/hostname'"
    )[0]["n"]
    lost = agent.query("SELECT stage, class, sum(count)::INT AS n FROM losses GROUP BY ALL")
    (opens,) = agent.query(
        "SELECT sum(count)::INT AS n FROM losses WHERE class = 'open' AND cgroup IN"
        f" (SELECT cgroup FROM events WHERE {where})"
    )
    assert opens["n"] and stored + opens["n"] >= count
    assert {row["stage"] for row in lost} == {"bulk"}, lost
    # Nothing vital was crowded out.
    execs = agent.query(
        f"SELECT cmdline FROM events WHERE {where} AND class = 'exec' ORDER BY mono"
    )
    told = [row["cmdline"].split("\n")[0] for row in execs if row["cmdline"] != "runc init"]
    assert [text.split(" -c ")[0] for text in told] == [
        "sh",
        "true first",
        "python3",
        "true last",
    ]
    shown = cli(agent.store, "status", code=ExitCode.AGENT)
    assert re.search(r"\d+ x open at bulk", shown)
    assert "events of this container were lost" in cli(agent.store, "tree", "storm")


# --- the clock ----------------------------------------------------------------------------


@pytest.mark.scenario
@pytest.mark.skipif(not in_vm(), reason="steps the machine's clock, so only in a VM")
def test_a_clock_step_is_said_and_order_is_kept(tmp_path: Path, patient: Patient):
    with Agent(tmp_path / "store") as agent:
        first = patient.attack()
        agent.settle()
        time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600)
        try:
            second = patient.attack()
            agent.settle()
            poll(
                lambda: "stepped by +3" in notices(agent).get("clock", ""),
                seconds=60,
                waiting_for="a notice of the step",
            )
        finally:
            time.clock_settime(time.CLOCK_REALTIME, time.time() - 3600)
        third = patient.attack()
        agent.settle()
    rows = agent.query(
        "SELECT object FROM events WHERE container = 'patient' AND object LIKE '%/CLAUDE.md'"
        " ORDER BY mono"
    )
    assert list(dict.fromkeys(row["object"] for row in rows)) == [first, second, third]
    assert sorted(objects(agent, patient.container)) == [first, second, third]


# --- what users write ---------------------------------------------------------------------

BROKEN = """
- rule: Half a rule
  desc: Its condition ends too soon.
  condition: evt.type = openat and (fd.name =
  output: x
  priority: ERROR

- rule: No such field
  desc: A field that there is not.
  condition: evt.type = openat and proc.colour = red
  output: x
  priority: ERROR

- rule: Whole
  desc: Good, in the same file.
  condition: evt.type in (open, openat, openat2) and evt.is_open_write = true and fd.name = /srv/a/CLAUDE.md
  output: whole %fd.name
  priority: ERROR
"""  # noqa: E501


def test_malformed_rules_are_refused_by_line_and_the_others_run(tmp_path: Path, patient: Patient):
    broken = tmp_path / "broken.yaml"
    broken.write_text(BROKEN)
    with Agent(tmp_path / "store", rules=[PACK, broken]) as agent:
        said = agent.words()
        assert f"rule refused: {broken}:4:" in said
        assert re.search(rf"rule refused: {re.escape(str(broken))}:10:.*proc.colour", said)
        status = agent.status()
        assert status is not None and status["rules_refused"] == 2
        path = patient.attack()
        agent.settle()
        assert objects(agent, patient.container, "Whole") == [path]
        assert objects(agent, patient.container) == [path]
        assert ", 2 refused" in cli(agent.store, "status")


HOSTILE = r"""
import os, subprocess
nasty = b"/tmp/a\n\x1b[2J\x1b]0;owned\x07\xe2\x80\xae\xff\xfe\r"
os.makedirs(nasty)
open(nasty + b"/CLAUDE.md", "w").close()
subprocess.run([b"/bin/sh", b"-c", b":", b"\x1b[31mred\nHULLWATCH: all is well\r", b"\xff\xfe"])
name = b"d" * 250
os.mkdir(b"/deep"); os.chdir(b"/deep")
for _ in range(15):
    os.mkdir(name); os.chdir(name)
open(b"e" * 250, "w").close()
open(b"AGENTS.md", "w").close()
"""


def test_hostile_names_and_arguments_are_shown_escaped(
    tmp_path: Path, runc: Runc, python_image: Image
):
    with Agent(tmp_path / "store", record=True) as agent:
        script = tmp_path / "hostile.py"
        script.write_text(HOSTILE)
        done = runc.run(
            ["python3", "/x/hostile.py"],
            name="hostile",
            image=python_image,
            mounts=[Mount(tmp_path, "/x")],
        )
        assert done.status == 0, done.stderr
        agent.settle()
    nasty = r"/tmp/a\n\x1b[2J\x1b]0;owned\x07\u202e\xff\xfe\r"
    deep = "/deep" + ("/" + "d" * 250) * 15
    shown = {
        name: cli(agent.store, *argv)
        for name, argv in {
            "events": ["events", "--container", "hostile", "-n", "100000"],
            "tree": ["tree", "hostile", "--files"],
            "findings": ["findings"],
            "json": ["events", "--container", "hostile", "-n", "100000", "--json"],
        }.items()
    }
    for name, text in shown.items():
        odd = {char for char in text if not char.isprintable() and char != "\n"}
        assert not odd, f"{name}: {odd}"
        # A line of its own is what the attacker wants for this text.
        assert not re.search(r"^\W*HULLWATCH: all is well", text, re.MULTILINE), name
    for name in ("events", "findings"):
        assert f"{nasty}/CLAUDE.md" in shown[name], name
        # Whole, at their length; the kernel's own limit is 4096 bytes.
        assert f"{deep}/AGENTS.md" in shown[name], name
    assert f"{deep}/{'e' * 250}" in shown["events"]
    assert nasty in shown["tree"].replace("\n", "") or r"\x1b[2J" in shown["tree"]
    assert r"\x1b[31mred\nHULLWATCH: all is well\r" in shown["events"]
    assert r"\xff\xfe" in shown["events"]
    cut = agent.query("SELECT count(*) AS n FROM events WHERE list_contains(mark_names, 'cut')")
    assert cut[0]["n"] == 0
