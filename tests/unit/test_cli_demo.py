"""What a person at the terminal says in `hullwatch demo --interactive`."""

from __future__ import annotations

import os

import pytest

from hullwatch.cli.demo import _ask


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("yes, ticket 4711\n", (True, "ticket 4711")),
        ("Y\n", (True, "said at the terminal")),
        ("no not on Fridays\n", (False, "not on Fridays")),
        ("maybe\n", (False, "said at the terminal")),
        ("", (False, "said at the terminal")),  # end of file
    ],
)
def test_only_a_yes_is_one(typed, expected, monkeypatch, capsys):
    ours, theirs = os.pipe()
    os.write(theirs, typed.encode())
    os.close(theirs)
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert _ask("send\x1b[2J", 60) == expected
    assert "send\\x1b[2J" in capsys.readouterr().out


def test_nobody_is_waited_for_longer_than_the_call_waits(monkeypatch):
    ours, theirs = os.pipe()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert _ask("send", 0) == (False, "nobody answered")
    os.close(theirs)
