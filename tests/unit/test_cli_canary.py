"""`hullwatch canary`: a file with credentials that open nothing, and the rule about its use."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.secrets import classify_path, detect
from hullwatch.agent.secrets.canary import _VALUE, FORMS, content, form_of
from hullwatch.cli import canary, main
from hullwatch.detect.ruleset import load, load_texts


@pytest.fixture
def run(tmp_path, capsys):
    def ask(*argv: object, code: int = 0) -> list[dict[str, Any]]:
        words = ["canary", *map(str, argv), "--into", str(tmp_path / "rules"), "--json"]
        assert main(words) == code
        said = capsys.readouterr()
        ask.err = said.err  # type: ignore[attr-defined]
        return [json.loads(line) for line in said.out.splitlines()]

    return ask


@pytest.mark.parametrize("form", FORMS)
def test_what_is_planted_looks_like_what_it_passes_for(form):
    first, second = content(form), content(form)
    assert first != second
    kinds = {found.kind for found in detect(first.encode())}
    assert set(_VALUE.findall(FORMS[form].template)) <= kinds
    for ending in FORMS[form].endings.split():
        assert form_of(f"/home/x/{ending}") == form
        assert classify_path(f"/home/x/{ending}") is not None


def test_planted_listed_and_taken_back(run, tmp_path):
    file = tmp_path / "home" / ".aws" / "credentials"
    run("plant", file, code=1)
    assert "No such file or directory; --parents makes it" in run.err
    (made,) = run(
        "plant", file, "--parents", "--container", "agent", "--seen-as", "/r/.aws/credentials"
    )
    about = file.stat()
    assert stat.S_IMODE(about.st_mode) == 0o600 and about.st_mtime < time.time() - 86_400
    assert (made["form"], made["container"], made["file"]) == ("aws", "agent", str(file))
    loaded = load([tmp_path / "rules"])
    assert not loaded.errors and not loaded.warnings
    (rule,) = loaded.rules
    assert rule.name == f"Canary {made['id']} touched" and rule.enabled
    secret = file.read_text().split()[-1]
    assert secret not in Path(made["rule"]).read_text()
    assert [one["state"] for one in run("list")] == ["there"]
    (gone,) = run("remove", made["id"][:5])
    assert gone["removed"] and not file.exists() and run("list") == []
    run("remove", made["id"], code=1)


def test_nothing_is_overwritten_and_nothing_else_removed(run, tmp_path):
    file = tmp_path / ".env"
    file.write_text("mine")
    run("plant", file, code=1)
    assert "File exists" in run.err and file.read_text() == "mine"
    assert not list((tmp_path / "rules").glob("*.yaml"))
    file.unlink()
    (made,) = run("plant", file)
    kept = tmp_path / "kept"
    shutil.copy2(file, kept)
    file.write_text("mine")  # the same inode
    assert [one["state"] for one in run("list")] == ["another file"]
    run("remove", made["id"])
    assert file.read_text() == "mine" and kept.exists()


def test_a_file_that_cannot_be_given_away_is_not_left_behind(run, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.fchown", refused)
    run("plant", tmp_path / ".env", code=1)
    assert "Operation not permitted" in run.err and not (tmp_path / ".env").exists()


def test_only_what_was_made_here_is_given_away(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir(0o755)
    fd = os.open(theirs, os.O_DIRECTORY)
    canary._give(fd, (12345, 12345))
    os.close(fd)
    assert theirs.stat().st_uid == os.geteuid()


def test_no_canary_without_its_rule(run, tmp_path):
    (tmp_path / "rules").write_text("a file where a folder should be")
    run("plant", tmp_path / ".env", code=1)
    assert not (tmp_path / ".env").exists()


def test_links_on_the_way_are_not_followed(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run("plant", tmp_path / "link" / ".env", code=1)
    assert "give the real path" in run.err
    (tmp_path / "real" / ".env").symlink_to(tmp_path / "elsewhere")
    run("plant", tmp_path / "real" / ".env", code=1)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["relative/.env"], "absolute path"),
        (["/srv/../etc/.env"], "without .."),
        (['/srv/".env'], "quotes"),
        (["/srv/\n.env"], "control"),
        (["/srv/notes.bin"], "does not say its form"),
        (["/srv/.env", "--as", "nothing"], "no such form"),
        (["//srv/.env"], "absolute path"),
        (["/srv/.env", "--seen-as", "x"], "--seen-as"),
        (["/srv/.env", "--seen-as", "/x/.env"], "which --container"),
        (["/srv/.env", "--container", 'a" or "b'], "no name of a container"),
        (["/srv/.env", "--owner", "root"], "numbers"),
    ],
)
def test_what_cannot_be_is_said(run, argv, said):
    run("plant", *argv, code=2)
    assert said in run.err


def test_a_rule_that_somebody_else_wrote_is_left_out(run, tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "mine.yaml").write_text("- list: x\n  items: [a]\n")
    assert run("list") == [] and "mine.yaml:1" in run.err


def test_it_can_be_the_workloads(run, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: it gives files away")
    file = tmp_path / "home" / "id_ed25519"
    run("plant", file, "--parents", "--owner", "1234:77")
    about = file.stat()
    above = file.parent.stat()
    assert (about.st_uid, about.st_gid) == (1234, 77) == (above.st_uid, above.st_gid)


@settings(max_examples=100)
@given(st.from_regex(canary._PLAIN, fullmatch=True))
def test_every_path_that_is_taken_makes_a_rule_that_loads(tmp_path_factory, path):
    one = canary.Planted("0a1b2c3d", "aws", "/srv/x: y", path, "", 0, 0, 0, 0)
    made = canary._write_rule(tmp_path_factory.mktemp("rules"), one)
    loaded = load_texts([(made.read_text(), str(made))])
    assert not loaded.errors and len(loaded.rules) == 1
    assert canary._all(made.parent) == [one]


def test_values_are_known_of_canaries_that_are_as_they_were_planted(run, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for name, form in (("one", "aws"), ("two", "key"), ("three", "key")):
        run("plant", home / name, "--as", form)
    (home / "three").write_text("another")
    (tmp_path / "rules" / "mine.yaml").write_text("- rule: mine\n")
    values = canary.planted_values([tmp_path])
    assert len(values) == 3
    text = (home / "one").read_text() + (home / "two").read_text()
    assert all(value in text for value in values)
    assert canary.planted_values([tmp_path / "nowhere", home / "one"]) == ()
