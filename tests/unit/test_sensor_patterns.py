"""Path patterns as automata agree with the table that they are made of."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.agent.secrets.labels import PERSONAL, RANKS, path_patterns
from hullwatch.agent.secrets.paths import PATHS, classify_path
from hullwatch.daemon import Daemon
from hullwatch.sensor.labels import LABELS, bits_of, names_of
from hullwatch.sensor.patterns import Pattern, TooManyPatterns, compiled, told_apart

TABLES = compiled(path_patterns(("secret", "private")))
PARTS = sorted(
    {
        part.replace("*", filler).replace("?", ".")
        for _, patterns in PATHS
        for pattern in patterns.split()
        for part in pattern.split("/")
        for filler in ("", "a", "Z.b")
    }
    - {""}
)


def expected(path: str) -> int:
    kind = classify_path(path)
    return 0 if kind is None else bits_of(["private" if kind in PERSONAL else "secret"])


def test_they_say_what_the_table_says():
    chosen = random.Random(7)
    seen = set()
    for _ in range(6000):
        path = "/" + "/".join(chosen.choices(PARTS, k=chosen.randint(1, 6)))
        path = chosen.choice((path, path, path.upper(), path[:-1], path + "x"))
        seen.add(expected(path))
        labels, rank = TABLES.found(path.encode())
        assert labels == expected(path), path
        assert (RANKS.get(rank) or None) == classify_path(path), path
    assert seen == {0, 1, 2}
    assert max(RANKS) < 256  # a byte, in the kernel


@pytest.mark.parametrize(
    "path", ["", "/", "/x", "relative", "/\xff", "/a" * 3000 + "/.aws/credentials"]
)
def test_odd_paths(path: str):
    assert TABLES.labels(path.encode("latin-1")) == expected(path)


def test_an_operators_pattern_holds_beside_the_table():
    tables = compiled(path_patterns(("secret",), ("/srv/customers/**", "*.pem")))
    assert tables.labels(b"/srv/customers/a/b") == 2
    assert tables.labels(b"/srv/customers.txt") == 0
    assert tables.labels(b"/root/.aws/credentials") == 1
    assert tables.labels(b"/srv/x.PEM") == 3
    assert tables.labels(b"/root/.bash_history") == 0  # private was not asked for


def test_what_does_not_fit_is_refused():
    with pytest.raises(TooManyPatterns, match="ASCII"):
        compiled([Pattern("/srv/ä", 1)])
    with pytest.raises(TooManyPatterns, match="characters"):
        compiled([Pattern("".join(map(chr, range(33, 127))), 1)])


def test_names_and_bits():
    assert LABELS == ("secret", "private", "untrusted")
    assert names_of(bits_of(["private", "label-9"])) == ("private", "label-9")
    with pytest.raises(ValueError, match="no label 'sekret': secret, private"):
        bits_of(["sekret"])
    with pytest.raises(ValueError, match="label-32"):
        bits_of(["label-32"])


def _regex(text: str) -> re.Pattern[str]:
    """The same pattern, as another engine has it."""
    parts = (
        {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        for part in re.split(r"(\*\*|\*|\?)", text)
    )
    anywhere = "" if text.startswith(("/", "**")) else "(?:.*/)?"
    return re.compile(anywhere + "".join(parts), re.DOTALL)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.text("ab/", min_size=1, max_size=3) | st.sampled_from(("*", "**", "?")),
            min_size=1,
            max_size=4,
        ).map(lambda parts: re.sub(r"\*{3,}", "**", "".join(parts))),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    st.lists(st.text("abC/\n", max_size=8), min_size=5, max_size=5),
    st.booleans(),
)
def test_what_is_told_apart_is_what_the_patterns_say(
    texts: list[str], paths: list[str], apart: bool
):
    groups = [[one] for one in texts] if apart else [texts]
    rows: list[tuple[int, int, str]] = []

    def row(group: int, held: int, text: bytes) -> int:
        rows.append((group, held, text.decode()))
        return len(rows)

    patterns = [[Pattern(one, 1 << bit) for bit, one in enumerate(some)] for some in groups]
    tables = told_apart(patterns, 100, row)
    said = {(group, held) for group, held, _ in rows}
    assert len(said) == len(rows), "one row for all that no pattern tells apart"

    def holding(group: int, path: str) -> int:
        return sum(1 << bit for bit, one in enumerate(groups[group]) if _regex(one).fullmatch(path))

    assert all(held == holding(group, text) for group, held, text in rows)
    table, states = tables.table[0], tables.states
    assert int(table["count"]) == len(groups)
    for path in paths:
        for group in range(len(groups)):
            backwards = int(table["reversed"]) >> group & 1
            state = int(table["starts"][group])
            for byte in reversed(path.encode()) if backwards else path.encode():
                state = int(states["next"][state - 100][table["class_of"][byte]])
            found = rows[int(states["labels"][state - 100]) - 1]
            assert found[:2] == (group, holding(group, path)), (texts, path)


def test_places_of_secrets_are_known_where_there_is_no_room_for_an_operators_own():
    """Policies about secrets would hold for nothing."""
    told: list[bool] = []
    labels = SimpleNamespace(
        give_paths=lambda tables, on: told.append(tables.found(b"/root/.aws/credentials")[1] > 0)
    )
    options = SimpleNamespace(labels=("secret",), private=[f"/x/{i}/**/y{i}*" for i in range(300)])
    agent: Any = SimpleNamespace(options=options, sensor=SimpleNamespace(labels=labels))
    with pytest.raises(TooManyPatterns):
        Daemon._give_labels(agent)
    assert told == [True]
