"""The set in force is followed: each change once, and what cannot be used changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from hullwatch.decide.applied import Applied, Set
from hullwatch.decide.engine import Engine
from hullwatch.decide.following import Following


def made(number: int) -> Set:
    return Set(((f'@id("p{number}") forbid (principal, action, resource);', "p.cedar"),))


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    return Applied(tmp_path)


@pytest.fixture
def following(applied: Applied) -> Following:
    applied.apply(made(0), 1, "me")
    found = Following(applied)
    assert ids(found.follow()) == ["p0"]
    return found


def ids(engine: Engine | None) -> list[str]:
    assert engine is not None
    return list(engine.policies)


def test_nothing_was_applied(tmp_path: Path):
    found = Following(Applied(tmp_path))
    assert found.follow() is None and found.entry is None
    assert "policy apply" in found.problem


def test_each_change_is_told_once(applied: Applied, following: Following):
    assert following.follow() is None and not following.problem
    applied.apply(made(1), 2, "you", "why")
    assert ids(following.follow()) == ["p1"] and following.follow() is None
    assert following.entry is not None and following.entry.note == "why"
    applied.rollback("", 3, "me")
    assert ids(following.follow()) == ["p0"]
    assert following.entry.what == "rollback"


def test_of_several_changes_the_last_counts(applied: Applied, following: Following):
    for number in (1, 2):
        applied.apply(made(number), number, "me")
    assert ids(following.follow()) == ["p2"]
    applied.apply(made(3), 3, "me")
    applied.rollback("", 4, "me")
    assert following.follow() is None, "what is in force is the same"
    assert following.entry is not None and following.entry.what == "rollback"


def test_a_damaged_set_is_not_taken_until_it_is_mended(applied: Applied, following: Following):
    entry = applied.apply(made(1), 2, "me")
    path = applied.folder / "sets" / f"{entry.version}.json"
    whole = path.read_bytes()
    for damaged, said in (
        (whole[:-9], "damaged"),
        (whole.replace(b"p1", b"p9"), "changed after"),
        (whole.replace(b"principal", b"prncipal"), "prncipal"),
        (whole.replace(b"p1", b"p\xff"), "damaged"),
        (b"[" * 100_000, "damaged"),
    ):
        path.write_bytes(damaged)
        assert following.follow() is None and said in following.problem
    path.unlink()
    assert following.follow() is None and "was applied" in following.problem
    path.write_bytes(whole)
    assert ids(following.follow()) == ["p1"] and not following.problem


def test_a_damaged_log_is_not_taken_until_it_is_mended(applied: Applied, following: Following):
    applied.apply(made(1), 2, "me")
    whole = applied.path.read_bytes()
    applied.path.write_bytes(whole.replace(b'"by":"me"', b'"by":"he"'))
    assert following.follow() is None and "changed after" in following.problem
    applied.path.unlink()
    assert following.follow() is None and "policy apply" in following.problem
    applied.path.write_bytes(whole[:-3])
    assert following.follow() is None and not following.problem, "half an entry is none"
    applied.path.write_bytes(whole)
    assert ids(following.follow()) == ["p1"]


def test_a_log_that_was_cut_off_or_replaced(applied: Applied, following: Following, tmp_path: Path):
    before = applied.path.read_bytes()
    applied.apply(made(1), 2, "me")
    assert ids(following.follow()) == ["p1"]
    applied.path.write_bytes(before)
    assert following.follow() is None and "no longer in it" in following.problem
    other = Applied(tmp_path / "other")
    other.apply(made(2), 5, "he")
    os.replace(other.path, applied.path)
    assert following.follow() is None and "no longer in it" in following.problem


def test_a_panic_is_a_problem(applied: Applied, following: Following, monkeypatch):
    class Panic(BaseException):
        pass

    def panics(version: str) -> None:
        raise Panic

    applied.apply(made(1), 2, "me")
    monkeypatch.setattr(applied, "engine", panics)
    assert following.follow() is None and "Panic" in following.problem
    monkeypatch.undo()
    assert ids(following.follow()) == ["p1"]


def test_a_set_without_a_policy(applied: Applied, following: Following):
    applied.apply(Set((("// none", "p.cedar"),)), 2, "me")
    assert following.follow() is None and "no policy" in following.problem


def test_a_set_that_a_newer_schema_refuses(applied: Applied, following: Following):
    entry = applied.apply(made(1), 2, "me")
    bad = Set((("forbid (principal, action, resource) when { context.no == 1 };", "p.cedar"),))
    (applied.folder / "sets" / f"{entry.version}.json").write_bytes(msgspec.json.encode(bad))
    assert following.follow() is None
    assert following.problem.startswith("p.cedar:1:") and "\n" not in following.problem


def test_what_may_not_be_read(applied: Applied, following: Following, monkeypatch):
    applied.apply(made(1), 2, "me")

    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert following.follow() is None and "log.jsonl: Permission denied" in following.problem
    monkeypatch.undo()
    assert ids(following.follow()) == ["p1"]
