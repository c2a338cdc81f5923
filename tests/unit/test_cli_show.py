"""Untrusted text on a terminal: shown, never obeyed."""

from __future__ import annotations

import io
import json
import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.cli.show import print_json, print_table, quoted, safe, size
from hullwatch.cli.when import parse_time

BIDI = "‪‫‬‭‮⁦⁧⁨⁩‎‏؜"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain /tmp/ünïcode 漢字", "plain /tmp/ünïcode 漢字"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("/tmp/\\xff", "/tmp/\\xff"),
        ("abc‮gpj.exe", "abc\\u202egpj.exe"),
        ("zero​width﻿", "zero\\u200bwidth\\ufeff"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("lone\ud800", "lone\\ud800"),
        (None, "None"),
    ],
)
def test_safe(text, shown):
    assert safe(text) == shown


@given(st.text(alphabet=st.characters(), max_size=200), st.integers(0, 40))
def test_safe_leaves_nothing_that_acts(text, width):
    out = safe(text, width)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in out)
    assert not set(out) & set(BIDI)
    if width:
        assert len(out) <= max(width, 1)


@given(st.text(max_size=100))
def test_json_is_ascii_and_the_same_text(text):
    file = io.StringIO()
    print_json({"x": text}, file)
    out = file.getvalue()
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out) == {"x": text}


def test_tables_escape_cells_and_headings(capsys):
    print_table(["a\x1b", "n"], [["x\ny", 3], [None, 1 << 63]])
    assert capsys.readouterr().out.splitlines() == [
        "a\\x1b  n",
        "x\\ny                     3",
        "-      9223372036854775808",
    ]


def test_quoted_is_one_word_for_a_shell():
    for text in ("a b", "it's", 'say "hi"', "$(id) `id` \\ !x"):
        assert shlex.split(quoted(text)) == [text]
    assert quoted("a b") == '"a b"'
    assert quoted("a\x1b") == "'a\\x1b'"


def test_sizes():
    assert [size(n) for n in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]


def test_times():
    assert parse_time(None) is None
    assert parse_time("2026-01-31T09:30") == parse_time("2026-01-31T10:30+01:00")
    assert parse_time("10m") - parse_time("20m") == pytest.approx(600e9, rel=0.01)
    for bad in ("", "10", "x", "10 parsecs", "2026-13-01"):
        with pytest.raises(Exception, match="give a time ago"):
            parse_time(bad)
