"""Calls from end to end: a workload in a container tells, the kernel knows, the CLI is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hullwatch.context import tool_call
from support.agent import Agent
from support.bundles import Mount
from support.cli import cli
from support.images import Image
from support.needs import missing
from support.runc import Runc
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

RULES = """
- rule: Key read
  desc: The key was read.
  condition: evt.type in (open, openat) and fd.num >= 0 and fd.name = /data/api.key
  output: key read by %proc.cmdline
  priority: ERROR
- rule: Key read for a report
  desc: A tool that has no business with the key.
  condition: >
    evt.type in (open, openat) and fd.num >= 0 and fd.name = /data/api.key
    and hw.call.name = report and container.id != host
  output: key read for %hw.call.name of %hw.call.server
  priority: CRITICAL
"""
# An agent of one process: calls one after the other, two at once in one thread, two in threads.
WORK = """
import os, socket, subprocess, sys, threading
sys.path.insert(0, "/lib-hullwatch")
from tool_call import tool_call

open("/data/api.key", "w").close()
with tool_call("report", server="files") as first:
    assert first
    open("/data/api.key").close()
    with socket.create_server(("127.0.0.1", 4321)) as near:
        socket.create_connection(near.getsockname()).close()
    subprocess.run(["cat", "/data/report.txt"])
with tool_call("list", server="files"):
    os.listdir("/data")
    subprocess.run(["ls", "/data"])
with tool_call("left", server="both"), tool_call("right", server="both"):
    open("/data/both.txt").close()
both = threading.Barrier(2)
def work(name):
    with tool_call(name, server="threads"):
        both.wait()
        open(f"/data/{name}.txt").close()
        both.wait()
threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
try:
    with tool_call("broken"):
        raise KeyError("no content of this in any store: hunter2")
except KeyError:
    pass
open("/data/after.txt").close()
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def story(python_image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The work done once under an agent, and what the store says of it."""
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("calls")
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    data, library, sockets = folder / "data", folder / "lib", folder / "run"
    for made in (data, library, sockets):
        made.mkdir()
    for name in ("report", "both", "one", "two", "after"):
        (data / f"{name}.txt").write_text("text\n")
    (library / "tool_call.py").write_text(Path(tool_call.__file__).read_text())
    (library / "work.py").write_text(WORK)
    with (
        Agent(folder / "store", rules=[rules], calls=sockets / "calls.sock") as agent,
        Runc(python_image) as runc,
    ):
        container = runc.start(
            ["python3", "/lib-hullwatch/work.py"],
            name="worker",
            mounts=[
                Mount(data, "/data", writable=True),
                Mount(library, "/lib-hullwatch"),
                Mount(sockets, "/run/hullwatch", writable=True),
            ],
        )
        container.wait_for_output("done", 120)
        agent.settle()
        said = agent.status()
    calls = {one["name"]: one for one in cli(folder / "store", "calls")}
    return {"calls": calls, "store": folder / "store", "status": said, "id": container.id}


def test_every_call_is_listed_with_how_it_ended(story):
    calls = story["calls"]
    assert set(calls) == {"report", "list", "left", "right", "one", "two", "broken"}
    assert {one["status"] for name, one in calls.items() if name != "broken"} == {"ok"}
    assert (calls["broken"]["status"], calls["broken"]["error"]) == ("error", "KeyError")
    assert all(one["ended"] >= one["begun"] for one in calls.values())
    assert {one["source"] for one in calls.values()} == {"context"}
    assert calls["report"]["containers"] == ["worker"]
    assert story["status"]["calls"]["taken_calls"] == 7


def test_a_call_has_what_was_done_in_it(story):
    report = story["calls"]["report"]
    assert report["ambiguous"] == 0 and report["processes"] >= 1
    assert "/data/api.key" in report["secrets"]
    assert sorted(report["findings"]) == ["Key read", "Key read for a report"]
    (told,) = cli(story["store"], "call", report["id"])
    drawn = {one["name"] for one in told["processes"]}
    assert drawn == {"python3", "cat"}
    files = [name for one in told["processes"] for group in one["files"] for name in group["names"]]
    assert "/data/report.txt" in files and "/data/after.txt" not in files
    assert story["calls"]["list"]["secrets"] == []


def test_threads_are_told_apart_and_what_overlaps_in_one_names_both(story):
    files = {}
    for name in ("one", "two", "left", "right"):
        (told,) = cli(story["store"], "call", story["calls"][name]["id"])
        files[name] = {
            name
            for one in told["processes"]
            for group in one["files"]
            for name in group["names"]
            if name.startswith("/data/")
        }
        shared = {one["name"] for one in told["shared_with"]}
        assert shared == {"left": {"right"}, "right": {"left"}}.get(name, set())
    assert files == {
        "one": {"/data/one.txt"},
        "two": {"/data/two.txt"},
        "left": {"/data/both.txt"},
        "right": {"/data/both.txt"},
    }
    assert story["calls"]["left"]["ambiguous"] >= 1


def test_findings_name_the_call(story):
    found = {one["rule"]: one for one in cli(story["store"], "findings")}
    assert found["Key read for a report"]["output"] == "key read for report of files"
    assert int(found["Key read for a report"]["span"]) == int(story["calls"]["report"]["id"], 16)
    assert not found["Key read"]["span"]  # it was first opened outside of any call
    assert found["Key read"]["spans"] == [found["Key read for a report"]["span"]]


def test_the_tree_and_a_finding_name_the_calls(story):
    (drawn,) = cli(story["store"], "tree", story["id"])
    told = {one["name"]: one["calls"] for one in drawn["processes"]}
    ident = story["calls"]["report"]["id"]
    assert told["cat"] == [f"files: report ({ident})"]
    assert {"files: list", "both: left", "threads: one"} <= {
        call.rpartition(" (")[0].removeprefix("~") for call in told["python3"]
    }
    found = {one["rule"]: one["id"] for one in cli(story["store"], "findings")}
    (shown,) = cli(story["store"], "findings", "show", found["Key read for a report"])
    assert shown["calls"] == [f"files: report ({ident})"]


def test_a_secret_is_told_with_its_call_and_what_came_next(story):
    seen = {one["where"]: one for one in cli(story["store"], "secrets", "seen")}
    key = seen["/data/api.key"]
    assert (key["kind"], key["how"]) == ("private_key_file", "file")
    assert key["calls"] == [f"files: report ({story['calls']['report']['id']})"]
    assert ("127.0.0.1:4321", True) in {(one["address"], one["same"]) for one in key["then"]}


def test_a_picture_calls_nobody(story, tmp_path):
    picture = tmp_path / "call.svg"
    cli(story["store"], "call", story["calls"]["report"]["id"], "--svg", str(picture))
    drawn = picture.read_text()
    assert drawn.startswith("<svg") and "api.key" in drawn
    assert "url(" not in drawn.replace("url(#", "")


def test_content_is_nowhere(story):
    for path in story["store"].rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
