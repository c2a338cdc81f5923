"""Definitions of tools: trusted on first use, compared from then on, and names that look alike."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from hullwatch.agent.mcp.confusable import disguised, skeleton
from hullwatch.agent.mcp.identity import of_command, of_url
from hullwatch.agent.mcp.pins import (
    LEARN_NS,
    MAX_DEFINITION,
    MAX_TOOLS,
    PinError,
    Pins,
    digest_of,
    fields_changed,
)
from hullwatch.agent.mcp.state import directory, hasher


def tool(name: str, **more):
    made = digest_of({"name": name, "description": "d", "inputSchema": {"type": "object"}, **more})
    assert made is not None
    return made


@pytest.fixture
def pins(tmp_path):
    made = Pins(tmp_path / "state" / "pins.db")
    yield made
    made.close()


def learn(pins, server, *tools, now=1):
    found = pins.see(server, tools, now)
    return found + pins.finish(server, [one.name for one in tools], now)


def test_the_first_listing_is_trusted(pins):
    assert learn(pins, "s", tool("a"), tool("b")) == []
    assert learn(pins, "s", tool("b"), tool("a")) == []
    assert {pin.state for pin in pins.all()} == {"pinned"}
    assert pins.state("s", "a") == "pinned"
    assert pins.state("s", "c") == "unknown" and pins.state("t", "a") == "new"


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"description": "d\u200b"}, "description"),
        ({"inputSchema": {"type": "object", "properties": {"x": {}}}}, "inputSchema"),
        ({"annotations": {"readOnlyHint": True}}, "annotations"),
        ({"outputSchema": {}, "title": "t"}, "outputSchema, title"),
    ],
)
def test_a_change_is_told_once_and_waits(pins, change, fields):
    learn(pins, "s", tool("a"))
    (told,) = learn(pins, "s", tool("a", **change), now=2)
    assert told == ("tool_changed", "a", fields)
    assert learn(pins, "s", tool("a", **change), now=3) == []
    assert pins.state("s", "a") == "changed"
    assert pins.accept("s", "a", 4) == ["a"] and pins.accept("s", "a", 4) == []
    assert pins.state("s", "a") == "pinned"
    assert learn(pins, "s", tool("a", **change), now=5) == []
    assert learn(pins, "s", tool("a"), now=6)[0].kind == "tool_changed"


def test_a_change_that_is_taken_back(pins):
    learn(pins, "s", tool("a"))
    learn(pins, "s", tool("a", description="x"))
    assert learn(pins, "s", tool("a")) == []
    assert pins.state("s", "a") == "pinned"
    assert pins.all()[0].offered == ""


def test_what_does_not_change_a_definition():
    one = digest_of({"name": "a", "inputSchema": {"x": 1, "y": 2}, "_meta": {"n": 1}})
    other = digest_of({"inputSchema": {"y": 2, "x": 1}, "name": "a"})
    assert one == other
    assert digest_of({"description": "no name"}) is None and digest_of({"name": 3}) is None


def test_a_new_tool_waits_and_a_removed_one_is_told(pins):
    learn(pins, "s", tool("a"), tool("b"))
    changes = learn(pins, "s", tool("a"), tool("c"), now=2)
    assert [(one.kind, one.tool) for one in changes] == [("tool_added", "c"), ("tool_removed", "b")]
    assert pins.state("s", "c") == "added" and pins.state("s", "b") == "removed"
    assert learn(pins, "s", tool("a"), tool("c"), now=3) == []
    # What is back as it was is trusted as it was; what comes back as another is a change.
    assert learn(pins, "s", tool("a"), tool("b"), tool("c"), now=4) == []
    assert pins.state("s", "b") == "pinned"
    learn(pins, "s", tool("a"), tool("c"), now=5)
    back = learn(pins, "s", tool("a"), tool("b", description="x"), tool("c"), now=6)
    assert back == [("tool_changed", "b", "description")]


def test_a_new_tool_that_goes_before_it_was_accepted_comes_back_as_new(pins):
    learn(pins, "s", tool("a"))
    learn(pins, "s", tool("a"), tool("b"), now=2)
    learn(pins, "s", tool("a"), now=3)
    assert learn(pins, "s", tool("a"), tool("b"), now=4)[0].kind == "tool_added"
    assert pins.state("s", "b") == "added"


def test_a_first_listing_in_pages(pins):
    assert pins.see("s", [tool("a")], 1) == []
    assert pins.see("s", [tool("b")], 2) == []
    assert pins.finish("s", ["a", "b"], 3) == []
    assert pins.see("s", [tool("c")], 4)[0].kind == "tool_added"


def test_a_first_listing_that_never_ends_is_not_trusted_for_ever(pins):
    pins.see("s", [tool("a")], 1)
    assert pins.see("s", [tool("b")], 2 + LEARN_NS)[0].kind == "tool_added"


@pytest.mark.parametrize("name", ["read_file", "read-file", "readFile", "rеad_file", "read_fi1e"])
def test_a_name_that_another_server_has(pins, name):
    learn(pins, "files", tool("read_file"))
    (change,) = learn(pins, "evil", tool(name))
    assert change.kind == "tool_shadows" and "files" in change.detail
    assert change.detail.isascii()
    assert learn(pins, "evil", tool(name)) == []


def test_names_of_one_server_that_look_alike(pins):
    changes = learn(pins, "s", tool("read_file"), tool("rеad_file"))
    assert [(one.kind, one.tool) for one in changes] == [("tool_shadows", "rеad_file")]


def test_skeletons():
    assert skeleton("send_mail") != skeleton("send_email")
    assert skeleton("查询") == "查询" and not disguised("查询") and not disguised("café")
    assert disguised("pаy") and disguised("pay\u200b") and not disguised("pay")


def test_forgetting(pins):
    learn(pins, "s", tool("a"), tool("b"))
    assert pins.forget("s", "a") == 1
    assert learn(pins, "s", tool("a"), tool("b"))[0].kind == "tool_added"
    assert pins.forget("s") == 3 and pins.forget("s") == 0
    assert learn(pins, "s", tool("a"), tool("b"), tool("c")) == []


def test_accepting_all_that_waits(pins):
    learn(pins, "s", tool("a"))
    learn(pins, "s", tool("a", title="x"), tool("b"))
    assert pins.accept("s", "", 3) == ["a", "b"]


def test_bounds(pins):
    big = tool("a", description="x" * MAX_DEFINITION)
    learn(pins, "s", big)
    assert len(pins.all()[0].definition) == MAX_DEFINITION
    (changed,) = learn(pins, "s", tool("a", description="x" * MAX_DEFINITION + "y"))
    assert changed.detail == "its definition"
    many = [tool(f"t{number}") for number in range(MAX_TOOLS + 5)]
    pins.see("big", many, 1)
    assert len(pins.all("big")) == MAX_TOOLS
    assert fields_changed("{", "{}") == []


def test_the_file_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        path = tmp_path / "a" / "pins.db"
        Pins(path).close()
        hasher(path.parent)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "hash.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "pins.db"
    path.write_bytes(b"this is no database, and longer than a header has to be" * 20)
    with pytest.raises(PinError, match="pins.db"):
        Pins(path)
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(PinError):
        Pins(tmp_path / "link.db")


def test_several_gateways_write_at_once(tmp_path):
    path = tmp_path / "pins.db"
    code = (
        "import sys; from pathlib import Path; from hullwatch.agent.mcp.pins import *\n"
        "pins = Pins(Path(sys.argv[1]))\n"
        "for n in range(20):\n"
        "    made = digest_of({'name': f't{n}', 'description': sys.argv[2]})\n"
        "    pins.see('s' + sys.argv[2], [made], 1)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(number)], env=env)
        for number in range(4)
    ]
    assert [one.wait(60) for one in started] == [0] * 4
    assert len(Pins(path).all()) == 80


def test_hashes_need_the_key(tmp_path):
    here, again = hasher(tmp_path / "a"), hasher(tmp_path / "a")
    there = hasher(tmp_path / "b")
    assert here(b"x") == again(b"x") != there(b"x")
    (tmp_path / "a" / "hash.key").write_bytes(b"short")
    with pytest.raises(OSError, match="hash.key"):
        hasher(tmp_path / "a")


def test_where_it_is_kept():
    assert str(directory({}, 0)) == "/var/lib/hullwatch/mcp"
    assert str(directory({"XDG_STATE_HOME": "/s"}, 7)) == "/s/hullwatch/mcp"
    assert str(directory({"HOME": "/h"}, 7)) == "/h/.local/state/hullwatch/mcp"
    assert str(directory({"HOME": "/h", "XDG_STATE_HOME": "rel"}, 7)).startswith("/h/")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("npx -y @scope/server@1.2 /data --token t", "npx @scope/server@1.2"),
        ("npx --package x y", "npx y"),
        ("uvx --from git+https://u:pw@h/x mcp-thing", "uvx mcp-thing"),
        ("/usr/bin/python3.11 -m server --key k", "python -m server"),
        ("docker run -i --rm -e TOKEN=t --name n img:1 arg", "docker img:1"),
        ("podman run -v=/a:/b img", "podman img"),
        ("/opt/no-such-server --password p", "/opt/no-such-server"),
        ("python -c print()", None),
    ],
)
def test_a_server_is_known_by_its_program_and_never_by_its_secrets(command, name):
    found = of_command(command.split())
    assert found == name if name else "print" not in found


def test_a_server_is_known_by_its_address():
    assert of_url("https://u:p@Host.example:8443/mcp/?key=s#f") == "https://host.example:8443/mcp"
