"""`hullwatch otlp check`: what of an export is understood."""

from __future__ import annotations

import gzip
import io
import json
import sys

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from support.otlp import as_json, as_protobuf, export, span

TOOL = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "read\x1b[31m",
    "gen_ai.tool.call.arguments": "planted",
}
WHOLE = export(
    span("a", attributes=TOOL),
    span("b", ident="01" * 8, attributes={"http.method": "GET"}),
    span("c", ident=""),
    resource={"service.name": "coder", "process.pid": 7, "container.id": "c1"},
)


@pytest.fixture
def check(capsys, tmp_path):
    def run(data, *options, code=0):
        path = tmp_path / "export"
        path.write_bytes(data)
        assert main(["otlp", "check", str(path), *options]) == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "data",
    [
        as_protobuf(WHOLE),
        as_json(WHOLE),
        json.dumps(WHOLE, indent=2).encode(),
        gzip.compress(as_protobuf(WHOLE)),
        as_json(WHOLE) + b"\n\n" + as_json({"resourceSpans": []}) + b"\n",
    ],
    ids=["protobuf", "json", "indented", "gzip", "lines"],
)
def test_a_table_of_calls(check, data):
    said = check(data)
    header, row = said.out.splitlines()
    assert header.split() == ["kind", "name", "server", "status", "ms", "begin", "pid", "service"]
    assert row.split()[:2] == ["tool", "read\\x1b[31m"]
    assert "coder" in row and " 7 " in row
    assert "2 spans, 1 of them calls" in said.err
    assert "1 spans rejected" in said.err
    assert "dropped: gen_ai.tool.call.arguments" in said.err
    assert "planted" not in said.out + said.err


def test_json(check):
    (row,) = map(json.loads, check(as_protobuf(WHOLE), "--json").out.splitlines())
    assert (row["kind"], row["status"], row["ms"], row["pid"]) == ("tool", "ok", 5.0, 7)
    assert row["dropped"] == ["gen_ai.tool.call.arguments"]
    assert row["attributes"]["gen_ai.operation.name"] == "execute_tool"
    assert row["container"] == "c1"


def test_stdin(monkeypatch, capsys):
    class Stdin:
        buffer = io.BytesIO(as_json(WHOLE))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["otlp", "check", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "read\x1b[31m"


def test_no_calls(check):
    said = check(as_json(export(span("a"))), code=ExitCode.NO)
    assert "no call that is understood, in 1 spans" in said.err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "export:1: JSON"),
        (as_json(WHOLE) + b"\n{]", "export:2: JSON"),
        (b"\x0a\xff", "export: protobuf"),
        (b"\x1f\x8b\x08", "export: gzip"),
    ],
)
def test_what_is_no_export(check, data, words):
    assert words in check(data, code=ExitCode.CONTENT).err


def test_a_file_that_is_not_there(capsys):
    assert main(["otlp", "check", "/nowhere"]) == ExitCode.CONTENT
    assert "/nowhere: No such file" in capsys.readouterr().err
