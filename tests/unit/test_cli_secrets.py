"""`hullwatch secrets`: says where and what kind, never what."""

from __future__ import annotations

import io
import json
import sys
from random import Random

import pytest

from hullwatch.agent.secrets import KINDS
from hullwatch.agent.secrets.examples import fill
from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode

TOKEN = fill("glpat-{s20}", Random(1))


def run(capsys, *argv, code=0):
    capsys.readouterr()
    assert main(["secrets", *map(str, argv)]) == code
    return capsys.readouterr()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.py").write_text(f"x = 1\ny = '{TOKEN}'\n")
    (tmp_path / "b.txt").write_text("nothing\n")
    (tmp_path / "c.bin").write_bytes(b"\0\1" + TOKEN.encode())
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "d").write_text(TOKEN)
    (tmp_path / "link").symlink_to(tmp_path / "a.py")
    return tmp_path


def test_kinds_are_listed(capsys):
    rows = [json.loads(line) for line in run(capsys, "kinds", "--json").out.splitlines()]
    assert [row["kind"] for row in rows] == [kind.name for kind in KINDS]
    assert {"kind", "provider", "shape"} == set(rows[0])
    shown = run(capsys, "kinds")
    assert "github_fine_grained_token" in shown.out
    assert f"{len(KINDS)} kinds" in shown.err


def test_a_folder_is_scanned_and_nothing_secret_is_shown(folder, capsys):
    shown = run(capsys, "scan", folder, code=ExitCode.NO)
    assert shown.out == f"{folder}/a.py:2 gitlab_token\n"
    assert "1 binary files were not looked at" in shown.err
    assert "1 found in 2 files" in shown.err
    assert TOKEN not in shown.out + shown.err


def test_as_json(folder, capsys):
    (line,) = run(capsys, "scan", folder, "--json", code=ExitCode.NO).out.splitlines()
    found = json.loads(line)
    assert found == {
        "file": f"{folder}/a.py",
        "line": 2,
        "kind": "gitlab_token",
        "start": 11,
        "end": 11 + len(TOKEN),
    }


def test_nothing_found_is_well(folder, capsys):
    assert run(capsys, "scan", folder / "b.txt").out == ""


def test_a_link_that_is_named_is_followed(folder, capsys):
    assert "link:2" in run(capsys, "scan", folder / "link", code=ExitCode.NO).out


def test_what_comes_by_a_pipe_is_scanned(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n\n" + TOKEN.encode())))
    assert run(capsys, "scan", "-", code=ExitCode.NO).out == "-:3 gitlab_token\n"


def test_what_is_not_there_is_said(tmp_path, capsys):
    said = run(capsys, "scan", tmp_path / "x", code=ExitCode.USAGE).err
    assert "x: no such file or directory" in said


def test_what_cannot_be_read_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hullwatch.cli.secrets.MAX_FILE", 10)
    (tmp_path / "big").write_text("x" * 11)
    assert "big: larger than" in run(capsys, "scan", tmp_path).err
