"""The set in force: one append changes it, a crash or a changed byte is seen."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hullwatch.decide.applied import Applied, AppliedError, Set
from hullwatch.decide.policy import PolicyError


def made(number: int) -> Set:
    return Set(((f'@id("p{number}") forbid (principal, action, resource);', "p.cedar"),))


def versions(applied: Applied) -> list[str]:
    return [entry.version for entry in applied.log()]


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    return Applied(tmp_path)


def in_force(applied: Applied) -> list[str]:
    engine = applied.engine()
    assert engine
    return list(engine.policies)


def test_nothing_is_in_force_at_first(applied: Applied):
    assert applied.log() == [] and applied.current() is None and applied.engine() is None
    with pytest.raises(AppliedError, match="no set before"):
        applied.rollback("", 0, "me")


def test_back_and_further_back(applied: Applied):
    first, second, third = (applied.apply(made(n), n, "me", f"note {n}").version for n in range(3))
    assert in_force(applied) == ["p2"]
    assert applied.rollback("", 4, "you").version == second
    assert applied.rollback("", 5, "you").version == first
    with pytest.raises(AppliedError, match="no set before"):
        applied.rollback("", 6, "you")
    assert versions(applied) == [first, second, third, second, first]
    applied.apply(made(2), 7, "me")
    assert applied.rollback("", 8, "you").version == first
    assert [entry.by for entry in applied.log()[-2:]] == ["me", "you"]


def test_back_to_a_version(applied: Applied):
    first, *_ = (applied.apply(made(n), n, "me").version for n in range(4))
    assert applied.rollback(first[:8], 5, "you").version == first
    with pytest.raises(AppliedError, match="no set 0000 was in force"):
        applied.rollback("0000", 6, "you")


def test_applied_twice_is_in_force_once(applied: Applied):
    first = applied.apply(made(1), 1, "me").version
    applied.apply(made(2), 2, "me")
    applied.apply(made(2), 3, "me")
    assert applied.rollback("", 4, "me").version == first


def test_a_set_that_cannot_be_used_changes_nothing(applied: Applied):
    applied.apply(made(1), 1, "me")
    with pytest.raises(PolicyError):
        applied.apply(Set((("forbid", "p.cedar"),)), 2, "me")
    assert in_force(applied) == ["p1"]


def test_an_entry_that_was_cut_short_is_none(applied: Applied):
    applied.apply(made(1), 1, "me")
    log = applied.folder / "log.jsonl"
    whole = log.read_bytes()
    applied.apply(made(2), 2, "me")
    cut = log.read_bytes()[:-9]
    for end in range(len(whole), len(cut)):
        log.write_bytes(cut[:end])
        assert in_force(applied) == ["p1"]
    applied.apply(made(3), 3, "me")
    assert in_force(applied) == ["p3"] and len(applied.log()) == 2


def test_a_changed_entry_is_told(applied: Applied):
    for number in range(3):
        applied.apply(made(number), number, "me")
    log = applied.folder / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], lines[1].replace('"by":"me"', '"by":"you"'), lines[2]]))
    with pytest.raises(AppliedError, match="log.jsonl:2: was changed"):
        applied.current()
    log.write_text("".join([lines[0], lines[2]]))
    with pytest.raises(AppliedError, match="log.jsonl:2: was changed"):
        applied.current()
    log.write_text("".join([lines[0], "{}\n"]))
    with pytest.raises(AppliedError, match="log.jsonl:2: damaged"):
        applied.current()


def test_a_changed_set_is_told(applied: Applied):
    version = applied.apply(made(1), 1, "me").version
    path = applied.folder / "sets" / f"{version}.json"
    path.write_text(path.read_text().replace("forbid", "permit"))
    with pytest.raises(AppliedError, match="was changed after it was applied"):
        applied.engine()
    path.write_text("{")
    with pytest.raises(AppliedError, match="damaged"):
        applied.engine()
    path.unlink()
    with pytest.raises(AppliedError, match="no set"):
        applied.engine()
    with pytest.raises(AppliedError, match="is no version"):
        applied.set("../log")


def test_only_the_owner_reads_it(applied: Applied):
    applied.apply(made(1), 1, "me")
    for path in (applied.folder, *applied.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_changes_come_one_after_the_other(applied: Applied):
    threads = [
        threading.Thread(target=applied.apply, args=(made(number), number, "me"))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(applied.log()) == 12
    assert not list(applied.folder.rglob(".*.json*"))
