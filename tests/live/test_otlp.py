"""Spans of a framework: told when the call is over, joined by process and time; and the way out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hullwatch.context import tool_call
from support.agent import PACK, Agent
from support.bundles import Mount
from support.cli import cli
from support.images import Image
from support.needs import missing
from support.otlp import Collector
from support.runc import Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)

# A framework's doings, and its export over the agent's Unix socket, by hand: HTTP/1.1 and JSON.
WORK = """
import json, os, socket, subprocess, sys, time
sys.path.insert(0, "/lib-work")
from tool_call import tool_call
with tool_call("inside", server="s"):
    pass
begin = time.time_ns()
open("/data/question.txt").close()
subprocess.run(["cat", "/data/answer.txt"])
end = time.time_ns()
time.sleep(0.05)
open("/data/after.txt").close()
def text(key, value):
    return {"key": key, "value": {"stringValue": value}}
spans = [
    {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "kind": 3,
     "name": "execute_tool lookup", "startTimeUnixNano": str(begin), "endTimeUnixNano": str(end),
     "attributes": [text("gen_ai.operation.name", "execute_tool"),
                    text("gen_ai.tool.name", "lookup"),
                    text("gen_ai.tool.call.arguments", "what hunter2 asked")]},
    {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203332", "kind": 3,
     "name": "chat big", "startTimeUnixNano": str(begin - 10**8), "endTimeUnixNano": str(begin - 1),
     "attributes": [text("gen_ai.operation.name", "chat"), text("gen_ai.provider.name", "openai"),
                    text("gen_ai.request.model", "big"), text("gen_ai.prompt", "hunter2"),
                    {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "12"}}]},
]
resource = {"attributes": [{"key": "process.pid", "value": {"intValue": str(os.getpid())}}]}
body = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]})
with socket.socket(socket.AF_UNIX) as to:
    to.connect("/run/hullwatch/otlp.sock")
    to.sendall(f"POST /v1/traces HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n"
               f"Content-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
    print("answer", to.recv(4096).split(b"\\r\\n")[0].decode(), flush=True)
time.sleep(1000)
"""
RULE = """
- rule: Answer read
  desc: A file that is read in a call.
  condition: evt.type in (open, openat) and fd.name = /data/answer.txt
  output: read %fd.name
  priority: NOTICE
"""


@pytest.fixture(scope="module")
def told(python_image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("otlp")
    data, sockets, library = folder / "data", folder / "run", folder / "lib"
    for made in (data, sockets, library):
        made.mkdir()
    for name in ("question", "answer", "after"):
        (data / f"{name}.txt").write_text("text\n")
    (library / "work.py").write_text(WORK)
    (library / "tool_call.py").write_text(Path(tool_call.__file__).read_text())
    collector = Collector()
    (folder / "answer.yaml").write_text(RULE)
    with (
        Agent(
            folder / "store",
            rules=[PACK, folder / "answer.yaml"],
            record=True,
            calls=sockets / "calls.sock",
            otlp=(f"unix:{sockets}/otlp.sock",),
            export=collector.url,
        ) as agent,
        Runc(python_image) as runc,
    ):
        container = runc.start(
            ["python3", "/lib-work/work.py"],
            name="framework",
            mounts=[
                Mount(data, "/data"),
                Mount(library, "/lib-work"),
                Mount(sockets, "/run/hullwatch", writable=True),
            ],
        )
        said = container.wait_for_output("answer", 60)
        agent.settle()
        time.sleep(1.5)  # a turn of once a second
        agent.settle()
        status = agent.status()
        traces = lambda: any(path == "/v1/traces" for path, _ in collector.got)  # noqa: E731
        poll(traces, seconds=30, waiting_for="an export")
    return {
        "said": said,
        "store": folder / "store",
        "status": status,
        "sent": collector.got,
        "calls": {one["name"]: one for one in cli(folder / "store", "calls")},
    }


def test_spans_become_calls_with_what_their_process_did(told: dict[str, Any]) -> None:
    assert "200" in told["said"]
    assert set(told["calls"]) == {"lookup", "big", "inside"}
    lookup = told["calls"]["lookup"]
    assert (lookup["source"], lookup["containers"]) == ("otlp", ["framework"])
    (drawn,) = cli(told["store"], "call", lookup["id"])
    files = {
        name for one in drawn["processes"] for group in one["files"] for name in group["names"]
    }
    assert {"/data/question.txt", "/data/answer.txt"} <= files
    assert "/data/after.txt" not in files


def test_the_tree_and_findings_name_it_as_a_candidate(told: dict[str, Any]) -> None:
    """By its time: the kernel knew of no call when it happened."""
    ident = told["calls"]["lookup"]["id"]
    (story,) = cli(told["store"], "tree", "framework")
    named = {one["name"]: one["calls_by_time"] for one in story["processes"]}
    assert named["cat"] == [f"lookup ({ident})"] and f"lookup ({ident})" in named["python3"]
    kernel = {text for one in story["processes"] for text in one["calls"]}
    assert {text.partition(" (")[0] for text in kernel} <= {"s: inside"}
    (found,) = [one for one in cli(told["store"], "findings") if one["rule"] == "Answer read"]
    assert not found["span"]
    (shown,) = cli(told["store"], "findings", "show", found["id"])
    assert shown["calls_by_time"] == [f"lookup ({ident})"] and "calls" not in shown
    assert told["calls"]["lookup"]["findings"] == ["Answer read"]


def test_a_model_call_is_a_route(told: dict[str, Any]) -> None:
    (route,) = cli(told["store"], "routes")
    assert (route["workload"], route["provider"], route["model"], route["tokens_in"]) == (
        "framework",
        "openai",
        "big",
        12,
    )


def test_calls_are_exported_and_content_is_nowhere(told: dict[str, Any]) -> None:
    assert {path for path, _ in told["sent"]} >= {"/v1/traces"}
    sent = b"".join(body for path, body in told["sent"] if path == "/v1/traces")
    # What came by OTLP is where it came from already.
    assert b"inside" in sent and b"lookup" not in sent and b"hunter2" not in sent
    assert told["status"]["otlp"]["received"] and told["status"]["otlp"]["exported"]
    for path in told["store"].rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
