"""Values of canaries: known again wherever they are, and kept nowhere."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.mentions import Mentions
from hullwatch.agent.planted import KEY as KEY_FILE
from hullwatch.agent.planted import first_line
from hullwatch.agent.secrets.canaries import Canaries, marks, used
from hullwatch.agent.secrets.canary import _VALUE, FORMS, RUN, content
from hullwatch.agent.secrets.key import Key
from hullwatch.sensor.batch import Batch, String
from hullwatch.sensor.wire import EVENT, PROC, StrKind
from support.canaries import CANARIES, KEY, ONE, TEXT, VALUE, planted

HEX = "0123456789abcdef"
WAYS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "quoted": lambda text: f'curl -H "x: {text.strip()}"',
    "json": lambda text: json.dumps({"a": [text]}),
    "json in json": lambda text: json.dumps({"a": json.dumps({"b": text})}),
    "in an address": lambda text: f"GET /?q={quote(text, safe='')} HTTP/1.1",
    "base64": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64 by lines": lambda text: base64.encodebytes(text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "basic": lambda text: "Basic " + base64.b64encode(b"user:" + text.encode()).decode(),
    "other case": str.upper,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_known_however_it_is_written(form, way):
    for _ in range(5):
        text = content(form)
        one = planted(form, text)
        known = Canaries([(KEY, one)])
        assert known.find(WAYS[way](text).encode()) == (one,)
        # Another of the form, and the form's own words, are none.
        assert known.find(WAYS[way](content(form)).encode()) == ()


def test_words_of_a_form_are_no_value():
    """A token of PyPI begins with the same letters, and may go on with what no run has."""
    start, more = "[pypi]\nusername = __token__\npassword = pypi-AgEIcHlwaS5vcmc", "x1" * 20
    for between in ("-", "_", "7-", "aB3_"):
        found = marks("pypi", f"{start}{between}{more}\n", KEY)
        assert list(found.values()) == [len(more)], between


@pytest.mark.parametrize("form", FORMS)
def test_each_value_is_known_alone(form):
    text = content(form)
    known = Canaries([(KEY, planted(form, text))])
    pattern = re.escape(FORMS[form].template)
    for kind in _VALUE.findall(FORMS[form].template):
        pattern = pattern.replace(f"<{kind}>", "([^$]+?)", 1)
    found = re.fullmatch(pattern, text)
    assert found and all(known.find(value.encode()) for value in found.groups())


def test_what_is_kept_does_not_hold_the_value():
    line = first_line(ONE)
    for run in RUN.findall(TEXT.encode()):
        assert run.decode().lower() not in line.lower()
    assert Canaries([(Key(bytes(32)), ONE)]).find(TEXT.encode()) == ()


def test_of_files_of_rules(tmp_path):
    (tmp_path / f"{ONE.id}.yaml").write_text(first_line(ONE) + "\n- rule: x\n")
    (tmp_path / "mine.yaml").write_text("- list: x\n  items: [a]\n")
    (tmp_path / "0a0b0c0d.yaml").write_text("# canary {}\n")
    (tmp_path / KEY_FILE).write_bytes(bytes(range(32)))
    (tmp_path / KEY_FILE).chmod(0o600)
    found, problems = Canaries.load(sorted(tmp_path.glob("*.yaml")))
    assert found.find(TEXT.encode()) == (ONE,)
    assert len(problems) == 1 and "0a0b0c0d.yaml:1" in problems[0]
    (tmp_path / KEY_FILE).chmod(0o644)
    found, problems = Canaries.load([tmp_path / f"{ONE.id}.yaml"])
    assert not found and "lets others read it" in problems[0]
    assert Canaries.load([Path("/nowhere/0a0b0c0d.yaml")])[1] == [
        "/nowhere/0a0b0c0d.yaml: No such file or directory"
    ]


def test_it_says_which_canary():
    one = planted("aws", content("aws"), container="agent", path="/root/.aws/credentials")
    signal = used(one, "in a request", 5, 7)
    assert (signal.kind, signal.subject) == ("canary_used", "in a request")
    assert (signal.call, signal.time) == (7, 5)
    assert signal.detail == (
        f"{one.id} (aws), planted 2001-09-09 01:46 UTC at /root/.aws/credentials in agent"
    )


@settings(deadline=None)
@given(st.binary(max_size=400), st.text(HEX, max_size=200))
def test_whatever_comes_is_no_canary(data, text):
    assert CANARIES.find(data) == CANARIES.find(text.encode()) == ()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [b"\\", b"\\u0041", b"%41", b"a/b+c", b"0123456789abcdef", b"\\n"])
def test_no_text_costs_more_than_its_length(text):
    assert CANARIES.find(text * (1 << 18)) == ()


# --- command lines and names --------------------------------------------------------------------


def test_on_command_lines_and_in_names_once_a_process():
    procs, events = np.zeros(2, PROC), np.zeros(4, EVENT)
    procs["argv"], procs["proc"], procs["cgroup"], procs["ts"] = [4, 6], [70, 71], 9, 3
    procs["span"] = [5, 0]
    events["obj"], events["proc"] = [8, 8, 10, 8], [70, 70, 70, 71]
    command = b"curl\0-H\0Authorization: Bearer " + VALUE.encode() + b"\0"
    texts = {4: (StrKind.ARGV, command), 6: (StrKind.ARGV, b"ls\0"), 10: (StrKind.PATH, b"/x")}
    value = max(RUN.findall(VALUE.encode()), key=len)
    texts[8] = (StrKind.DNS, value.lower() + b".evil.test")
    strings = tuple(
        String(ident, int(kind), 0, len(data), data) for ident, (kind, data) in texts.items()
    )
    batch = Batch(events, procs, strings, wall_offset=100)
    mentions = Mentions(CANARIES)
    told = [
        (one.subject, one.call, one.time, key, cgroup)
        for one, key, cgroup in mentions.follow(batch)
    ]
    assert told == [
        ("on a command line", 5, 103, 70, 9),
        ("in a name asked of DNS", 0, 100, 70, 0),
        ("in a name asked of DNS", 0, 100, 71, 0),
    ]
    assert list(mentions.follow(batch)) == []
