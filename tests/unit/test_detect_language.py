"""The condition grammar, rule files, and how items change each other."""

from __future__ import annotations

import string
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.detect.errors import RuleError
from hullwatch.detect.glob import PatternError, glob_literals, glob_pattern, matcher
from hullwatch.detect.language.ast import (
    And,
    Check,
    Expr,
    FieldRef,
    Literal,
    Macro,
    Not,
    Or,
    Transform,
    show,
)
from hullwatch.detect.language.document import read_documents
from hullwatch.detect.language.grammar import MAX_DEPTH, MAX_TEXT, parse
from hullwatch.detect.language.strings import quote, read_quoted
from hullwatch.detect.ruleset import RuleSet, load, load_texts

RULE = "- rule: {name}\n  desc: d\n  output: o\n  priority: INFO\n  condition: {condition}\n"


def one(condition: str, name: str = "r") -> str:
    return RULE.format(name=name, condition=condition)


def expanded(rules: RuleSet, name: str = "r") -> str:
    assert not rules.errors, [str(error) for error in rules.errors]
    return show(rules.rule(name).condition)


def loaded(*texts: str) -> RuleSet:
    return load_texts([(text, f"{number}.yaml") for number, text in enumerate(texts)])


# Grammar

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(
    lambda word: word not in ("and", "or", "not", "exists", "in")
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
FIELDS = st.builds(
    FieldRef,
    st.builds("{}.{}".format, WORDS, WORDS),
    st.none() | st.sampled_from(("2", "some key", "a]b", 'q"q')),
)
OPERANDS = st.recursive(
    FIELDS,
    lambda inner: (
        st.builds(
            lambda name, arg: Transform(name, (arg,)),
            st.sampled_from(("tolower", "b64", "len")),
            inner,
        )
        | st.builds(lambda a, text: Transform("concat", (a, Literal(text, True))), inner, TEXTS)
    ),
    max_leaves=3,
)
LITERALS = st.builds(lambda text: Literal(text, True), TEXTS)
CHECKS = (
    st.builds(lambda left: Check(left, "exists"), OPERANDS)
    | st.builds(
        lambda left, op, value: Check(left, op, (value,)),
        OPERANDS,
        st.sampled_from(("=", "!=", "contains", "startswith", "glob", "regex", "endswith")),
        LITERALS | st.builds(lambda field: Transform("val", (field,)), FIELDS),
    )
    | st.builds(
        lambda left, op, number: Check(left, op, (Literal(str(number)),)),
        OPERANDS,
        st.sampled_from(("<", "<=", ">", ">=")),
        st.integers(),
    )
    | st.builds(
        lambda left, op, many: Check(left, op, tuple(many), listed=True),
        OPERANDS,
        st.sampled_from(("in", "intersects", "pmatch")),
        st.lists(LITERALS, max_size=4),
    )
    | st.builds(
        lambda left, many, how: Check(left, "contains", tuple(many), how, True),
        OPERANDS,
        st.lists(LITERALS, min_size=1, max_size=3),
        st.sampled_from(("oneof", "anyof", "allof")),
    )
)
TREES = st.recursive(
    CHECKS | st.builds(Macro, WORDS),
    lambda inner: (
        st.builds(Not, inner.filter(lambda tree: not isinstance(tree, Not)))
        | st.lists(inner, min_size=2, max_size=4).map(lambda many: And(tuple(many)))
        | st.lists(inner, min_size=2, max_size=4).map(lambda many: Or(tuple(many)))
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_a_tree_reads_back_from_its_text(tree: Expr) -> None:
    assert parse(show(tree)) == tree


@settings(max_examples=500, deadline=None)
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            (
                *(
                    "proc.name",
                    "and",
                    "or",
                    "not",
                    "(",
                    ")",
                    "in",
                    "=",
                    "contains",
                    "'",
                    '"',
                    ",",
                    "x",
                ),
                *("val(", "tolower(", "[2]", "\\", " ", "\n", "exists", "anyof", "<", "5", "0x1"),
            )
        ),
        max_size=40,
    ).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(RuleError):
        show(parse(text))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_file_is_read_or_refused(text: str) -> None:
    found = load_texts([(text, "x.yaml"), (f"- rule: r\n  condition: {text}", "y.yaml")])
    assert all(isinstance(error, RuleError) for error in found.errors)


@given(TEXTS)
def test_quoting_keeps_any_text(text: str) -> None:
    written = quote(text)
    if written[:1] == '"':
        assert read_quoted(written, 0) == (text, len(written))
    else:
        assert written == text


def test_bounds() -> None:
    deep = "(" * (MAX_DEPTH - 1) + "a.b exists" + ")" * (MAX_DEPTH - 1)
    assert isinstance(parse(deep), Check)
    for text in (
        "(" * 100_000,
        "not " * 50_000 + "(" * 500,
        "tolower(" * 5_000,
        "x" * (MAX_TEXT + 1),
    ):
        with pytest.raises(RuleError):
            parse(text)
    doubling = "- macro: m0\n  condition: proc.name exists\n" + "".join(
        f"- macro: m{n}\n  condition: (m{n - 1} and m{n - 1})\n" for n in range(1, 60)
    )
    assert "too large" in str(loaded(doubling + one("m59")).errors[0])
    nested = "- macro: m0\n  condition: proc.name exists\n" + "".join(
        f"- macro: m{n}\n  condition: not m{n - 1}\n" for n in range(1, 2000)
    )
    assert loaded(nested + one("m1999")).errors


@pytest.mark.parametrize(
    ("text", "said", "column"),
    [
        ("proc.name = ", "expected a value after '='", 13),
        ("proc.name in (a, b", "expected ')'", 19),
        ("proc.name is x", "expected an operator after proc.name", 11),
        ("proc.name startwith x", "did you mean 'startswith'?", 11),
        ("lower(proc.name) = x", "did you mean 'tolower'?", 1),
        ("a and", "expected 'and' or 'or'", 3),
        ("x or or y", "but found 'or y'", 6),
        ("proc.name = 'a", "a quoted string is not closed", 13),
        (r"proc.name = 'a\q'", "unsupported escape", 15),
        ("fd.num > abc", "expected a number", 10),
        ("proc.name in a, b", "(a, b)", 15),
        ("(a", "expected ')'", 3),
    ],
)
def test_errors_say_where_and_what(text: str, said: str, column: int) -> None:
    with pytest.raises(RuleError) as raised:
        parse(text)
    assert said in str(raised.value)
    assert raised.value.place.col == column


def test_escapes_as_falco() -> None:
    tree = parse(r"""a.b = "x\"y\\z\n" and a.b = 'it\'s'""")
    assert isinstance(tree, And)
    assert [child.right[0].text for child in tree.children] == ['x"y\\z\n', "it's"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/home/*/.ssh/*", "/home/a/b/.ssh/id", "/home/.ssh/id"),
        ("a?c", "abc", "ac"),
        ("[!a-c]x", "dx", "ax"),
        ("[[:digit:]]*", "5x", "x5"),
        ("@(foo|bar)*", "barn", "baz"),
        ("+(ab)", "abab", "aba"),
        (r"a\*", "a*", "ab"),
        ("a[b", "a[b", "ab"),
        ("*.log", "x.log", "x.log\n"),
    ],
)
def test_globs_are_fnmatch(pattern: str, yes: str, no: str) -> None:
    test = matcher(glob_pattern(pattern))
    assert test(yes)
    assert not test(no)


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?[]!(|)@+\\-^", max_size=12), st.text("ab[]", max_size=8))
def test_any_glob_is_used_or_refused(pattern: str, text: str) -> None:
    with suppress(PatternError):
        matcher(glob_pattern(pattern))(text)


@settings(max_examples=1000, deadline=None)
@given(st.text("ab*?[]!(|)@+\\^", max_size=12), st.text("ab[])|", max_size=10))
def test_what_a_glob_must_hold_is_in_every_match(pattern: str, text: str) -> None:
    try:
        test = matcher(glob_pattern(pattern))
    except PatternError:
        return
    begins, holds = glob_literals(pattern)
    if test(text):
        assert text.startswith(begins) and all(one in text for one in holds)


def test_what_a_glob_must_hold() -> None:
    assert glob_literals("*/@(site|dist)-packages/*.pth") == ("", ["/", "-packages/", ".pth"])
    assert glob_literals("/proc/*/environ") == ("/proc/", ["/proc/", "/environ"])
    assert glob_literals(r"\*a[b]?(c(d))e") == ("*a", ["*a", "e"])


# Files


def test_places_survive_folding_and_comments() -> None:
    text = """
# a comment
- rule: r
  desc: d
  priority: INFO
  output: o
  condition: >
    evt.type = openat
    and proc.nam = x
    and fd.name exists
"""
    (error,) = loaded(text).errors
    assert (error.place.line, error.place.col) == (9, 9)
    assert (
        str(error) == "0.yaml:9:9: rule 'r': unknown field 'proc.nam' (did you mean 'proc.name'?)"
    )


def test_an_error_in_a_macro_names_macro_and_place() -> None:
    (error,) = loaded("- macro: m\n  condition: (evt.type=openat and nope)\n" + one("m")).errors
    assert str(error).startswith("0.yaml:2:35: rule 'r': macro 'm': there is no macro 'nope'")


def test_one_broken_rule_does_not_hide_the_others() -> None:
    rules = loaded(
        one("evt.type=openat and proc.nme=x", "bad")
        + one("evt.type=openat", "good")
        + "- rule: worse\n"
    )
    assert [rule.name for rule in rules.rules] == ["good"]
    assert sorted(error.item for error in rules.errors) == ["rule 'bad'", "rule 'worse'"]


def test_lists() -> None:
    rules = loaded(
        "- list: a\n  items: [x, '\"y z\"', 'p q']\n"
        "- list: b\n  items: [a, w]\n"
        "- list: c\n  items: [b]\n"
        "- list: none\n  items: []\n" + one("evt.type=openat and proc.name in (c, none, v)")
    )
    assert expanded(rules).endswith('proc.name in (x, "y z", "p q", w, v)')


def test_quoted_names_are_not_lists() -> None:
    rules = loaded("- list: a\n  items: [x]\n" + one("""evt.type=openat and proc.name in ("a")"""))
    assert expanded(rules).endswith('proc.name in ("a")')


def test_cycles_are_refused() -> None:
    assert "contains itself" in str(loaded("- macro: m\n  condition: not m\n" + one("m")).errors[0])
    text = "- list: a\n  items: [b]\n- list: b\n  items: [a]\n" + one("proc.name in (a)")
    assert "contains itself" in str(loaded(text).errors[0])


def test_later_definitions_win_everywhere() -> None:
    rules = loaded(
        "- macro: m\n  condition: evt.type=openat\n" + one("m and proc.name=a"),
        "- macro: m\n  condition: evt.type=connect\n",
    )
    assert expanded(rules) == "evt.type = connect and proc.name = a"


def test_append_and_override() -> None:
    base = (
        "- list: l\n  items: [a]\n- macro: m\n  condition: proc.name=x\n"
        "- rule: r\n  desc: d\n  output: o\n  priority: INFO\n"
        "  tags: [t]\n  condition: evt.type=openat and m\n"
    )
    change = (
        "- list: l\n  items: [b]\n  override: {items: append}\n"
        "- macro: m\n  condition: or proc.name in (l)\n  override: {condition: append}\n"
        "- rule: r\n  condition: and user.uid=0\n  output: more\n  tags: [u]\n  priority: error\n"
        "  enabled: false\n  override: {condition: append, output: append, tags: append, "
        "priority: replace, enabled: replace}\n"
    )
    rules = loaded(base, change)
    rule = rules.rule("r")
    assert expanded(rules) == (
        "evt.type = openat and (proc.name = x or proc.name in (a, b)) and user.uid = 0"
    )
    assert (rule.tags, rule.priority, rule.enabled) == (("t", "u"), "ERROR", False)
    assert rule.definition.output == "o more"
    replaced = loaded(
        base, "- rule: r\n  condition: evt.type=connect\n  override: {condition: replace}\n"
    )
    assert expanded(replaced) == "evt.type = connect"
    legacy = loaded(base, "- rule: r\n  append: true\n  condition: and user.uid=0\n")
    assert expanded(legacy).endswith("user.uid = 0")
    assert "deprecated" in str(legacy.warnings[0])
    switched = loaded(base, "- rule: r\n  enabled: false\n")
    assert not switched.rule("r").enabled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- rule: r\n  condition: x\n  override: {condition: append}\n", "no earlier rule"),
        (
            one("evt.type=openat")
            + "- rule: r\n  priority: INFO\n  override: {priority: append}\n",
            "use replace",
        ),
        (
            one("evt.type=openat") + "- rule: r\n  desc: x\n  override: {output: append}\n",
            "not given",
        ),
        (
            one("evt.type=openat")
            + "- rule: r\n  desc: x\n  tags: [a]\n  override: {tags: append}\n",
            "'desc' is given",
        ),
        (
            one("evt.type=openat")
            + "- rule: r\n  append: true\n  condition: x\n  override: {desc: append}\n",
            "together",
        ),
        ("- macro: m\n  append: true\n  condition: x\n", "no earlier macro"),
        ("- list: m\n  append: true\n  items: [x]\n", "no earlier list"),
        ("- list: m\n  items: x\n", "'items' must be a sequence"),
        (one("evt.type=openat").replace("INFO", "URGENT"), "not a priority"),
        (one("evt.type=openat") + "  source: k8s_audit\n", "source 'k8s_audit' is not supported"),
        (one("evt.type=openat") + "  enabled: maybe\n", "'enabled' must be true or false"),
        ("- rule: r\n  condition: evt.type=openat\n", "'output' is missing"),
        ("- required_engine_version: 0.58.0\n", "rules for engine 0.58.0"),
        ("- required_engine_version: 58\n", "rules for engine 58"),
        ("- required_engine_version: 1.0.0\n", "rules for engine 1.0.0"),
        ("- required_engine_version: soon\n", "is not a version"),
        (
            "- required_plugin_versions: [{name: k8saudit, version: 0.1.0}]\n",
            "plugin 'k8saudit' is not available",
        ),
        ("a: [1\n", "not YAML"),
        ("a: 1\n", "must be a sequence of items"),
        ("- 5\n", "must be a mapping"),
        ("- rule: r\n  rule: r\n", "given twice"),
        (
            one("evt.type=openat").replace("output: o", "output: '%proc.nme'"),
            "in the output: unknown field",
        ),
        (one("evt.type=opnat"), "did you mean 'openat'?"),
        (one("evt.type=read"), "the sensor does not observe read"),
        (one("evt.type=openat and fd.num contains 3"), "does not fit fd.num, a number"),
        (one("evt.type=openat and fd.num = x"), "'x' is not a number"),
        (one("evt.type=connect and fd.sip = 1.2.3"), "is not a address"),
        (one("evt.type=openat and fd.name bcontains cafe"), "needs a field of bytes"),
        (one("evt.type=openat and proc.env[A] = b"), "never recorded"),
        (one("evt.type=openat and fd.proto = http"), "is not available: use fd.l4proto"),
        (one("evt.type=openat and evt.arg.nope = 1"), "is not recorded"),
        (one("evt.type=openat and evt.arg[0] = 1"), "by name, not by position"),
        (one("evt.type=openat and fd.name regex '(a'"), "missing )"),
        (one("evt.type=openat and len(fd.num) = 1"), "needs text"),
        (one("evt.type=openat and proc.name = val(fd.num)"), "is a string but fd.num is a number"),
        (one("evt.type=openat and proc.aname = val(proc.name)"), "many values"),
        (one("evt.type=openat and ka.verb = get"), "only the source 'syscall'"),
    ],
)
def test_refusals_name_the_reason(text: str, said: str) -> None:
    rules = loaded(text)
    assert any(said in str(error) for error in rules.errors), [str(error) for error in rules.errors]
    assert all(error.place.line for error in rules.errors)


def test_warnings() -> None:
    rules = loaded(
        one("evt.type in (openat, read) and evt.dir = <")
        + "  priorty: x\n  warn_evttypes: false\n- whatever: 1\n"
    )
    said = "\n".join(map(str, rules.warnings))
    assert not rules.errors
    assert "evt.type read never matches" in said
    assert "'evt.dir' is deprecated" in said
    assert "unknown key 'priorty' is ignored (did you mean 'priority'?)" in said
    assert "unknown item with whatever" in said
    assert "no evt.type limits" in str(loaded(one("proc.name=x")).warnings[0])


def test_skip_if_unknown_filter() -> None:
    rules = loaded(one("evt.type=openat and no.such = 1") + "  skip-if-unknown-filter: true\n")
    assert not rules.rules and not rules.errors and "skipped" in str(rules.warnings[0])


def test_versions_that_fit() -> None:
    assert loaded("- required_engine_version: 26\n" + one("evt.type=openat")).rules
    text = (
        "- required_plugin_versions:\n  - {name: x, version: 1.0.0, "
        "alternatives: [{name: container, version: 0.4.0}]}\n"
    )
    assert not loaded(text).errors


# Exceptions


def excepted(exceptions: str, more: str = "") -> str:
    return expanded(
        loaded(one("evt.type=openat") + "  exceptions:\n" + exceptions, *([more] if more else []))
    )


def test_exceptions() -> None:
    assert excepted("  - {name: e, fields: proc.name, values: [a, b c]}\n") == (
        'evt.type = openat and not proc.name in (a, "b c")'
    )
    assert excepted(
        "  - {name: e, fields: [proc.name, fd.name], values: [[a, /x], [b, /y]]}\n"
    ) == (
        "evt.type = openat and not "
        "((proc.name = a and fd.name = /x) or (proc.name = b and fd.name = /y))"
    )
    assert (
        excepted(
            "  - {name: e, fields: [proc.name, fd.name], comps: [in, startswith], "
            "values: [[[a, b], /x]]}\n"
        )
        == "evt.type = openat and not (proc.name in (a, b) and fd.name startswith /x)"
    )
    assert excepted(
        "  - {name: e, fields: [proc.name], comps: [in], values: [[(a,b)]]}\n".replace(
            "(a,b)", '"(a,b)"'
        )
    ) == ("evt.type = openat and not proc.name in (a, b)")
    assert excepted("  - {name: e, fields: fd.name}\n") == "evt.type = openat"
    assert excepted("  - {name: e, fields: fd.name, comps: pmatch, values: [/a]}\n").endswith(
        "not fd.name pmatch (/a)"
    )


def test_exceptions_append_and_replace() -> None:
    base = "  - {name: e, fields: [proc.name, fd.name], values: [[a, /x]]}\n"
    append = (
        "- rule: r\n  exceptions: [{name: e, values: [[b, /y]]}]\n"
        "  override: {exceptions: append}\n"
    )
    assert excepted(base, append).endswith("(proc.name = b and fd.name = /y))")
    replace = (
        "- rule: r\n  exceptions: [{name: e, fields: proc.name, values: [z]}]\n"
        "  override: {exceptions: replace}\n"
    )
    assert excepted(base, replace) == "evt.type = openat and not proc.name in (z)"


@pytest.mark.parametrize(
    ("exceptions", "said"),
    [
        ("{fields: proc.name}", "'name' is missing"),
        ("{name: e, values: [a]}", "needs 'fields'"),
        ("{name: e, fields: [a.b, c.d], comps: [=]}", "as many comps as fields"),
        ("{name: e, fields: proc.name, comps: contains, values: [a]}", "in, pmatch or intersects"),
        ("{name: e, fields: [proc.name, fd.name], values: [[a]]}", "a list of 2"),
        ("{name: e, fields: [proc.nme], values: [[a]]}", "unknown field 'proc.nme'"),
        ("{name: e, fields: [proc.name], comps: [is], values: [[a]]}", "expected an operator"),
    ],
)
def test_broken_exceptions(exceptions: str, said: str) -> None:
    rules = loaded(one("evt.type=openat") + f"  exceptions: [{exceptions}]\n")
    assert said in str(rules.errors[0])


def test_load_directories_skips_cases(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.yaml").write_text(one("evt.type=openat"))
    (tmp_path / "b" / "x.test.yaml").write_text("not rules")
    rules = load([tmp_path, tmp_path / "missing.yaml"])
    assert [rule.name for rule in rules.rules] == ["r"]
    assert "cannot be read" in str(rules.errors[0])


def test_alias_bombs_are_refused() -> None:
    text = "- &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"- &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)
    )
    with pytest.raises(RuleError):
        list(read_documents(text, "x"))
