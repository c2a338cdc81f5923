"""Sigma's language, modifier by modifier, against events made by hand; correlations; refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from hullwatch.detect import load, load_texts
from hullwatch.detect.engine import Engine
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import Scene
from hullwatch.detect.sigma import is_sigma, reader

pytest.importorskip("sigma", reason="needs pySigma: pip install -e '.[dev]'")

from hullwatch.detect.sigma.convert import convert
from hullwatch.detect.sigma.messages import Reply, SigmaText
from support.sigma_events import ACCOUNTS, BASE, add
from support.sigma_plain import matches
from support.sigma_plain import parse as plain

PROCESS, FILE, NETWORK = BASE


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without a process for each rule, but where the child is what the test is about."""
    if "child" not in request.node.name:
        monkeypatch.setattr(reader, "_ask", convert)


def rule(detection: str, category: str = PROCESS, title: str = "r", more: str = "") -> str:
    return (
        f"title: {title}\nlogsource: {{product: linux, category: {category}}}\n{more}"
        f"detection:\n  s: {{{detection}}}\n  condition: s\n"
    )


def holds(text: str, category: str, **changed: Any) -> bool:
    """Whether the rule matches the event; that the plain evaluation agrees is part of it."""
    rules = load_texts([(text, "r.yml")])
    assert not rules.errors, [str(error) for error in rules.errors]
    event = {
        key: value for key, value in {**BASE[category], **changed}.items() if value is not None
    }
    scene = Scene()
    add(scene, category, event)
    found = bool(Engine(rules, ACCOUNTS).match(scene.enriched()))
    (one,) = plain(text)
    assert found == matches(one.tree, event), (text, event)
    return found


CL, IM, TF = "CommandLine", "Image", "TargetFilename"
# (category, detection, field, values that meet it, values that do not)
MODIFIERS: tuple[tuple[str, str, str, list[Any], list[Any]], ...] = (
    (PROCESS, "CommandLine: 'curl x'", CL, ["curl x", "CURL X"], ["curl x ", "curl"]),
    (PROCESS, "CommandLine|contains: ' -i '", CL, ["sh -I x"], ["sh -i"]),
    (PROCESS, "CommandLine|startswith: [sudo, 'doas ']", CL, ["sudox", "doas x"], ["a sudo"]),
    (PROCESS, "CommandLine|endswith: .SH", CL, ["x.sh"], ["x.sh "]),
    (PROCESS, "CommandLine|contains|all: [aa, bb]", CL, ["bb aa"], ["aa", "bb"]),
    (PROCESS, "CommandLine|cased: Curl", CL, ["Curl"], ["curl"]),
    (PROCESS, "CommandLine|contains|cased: XX", CL, ["aXXb"], ["axxb"]),
    (PROCESS, "CommandLine|re: 'a\\s+b$'", CL, ["x a  b"], ["x A  b", "a b c"]),
    (PROCESS, "CommandLine|re|i: '^a+b'", CL, ["AAB"], ["xaab"]),
    (PROCESS, "CommandLine|re|m: '^b'", CL, ["a\nb"], ["ab"]),
    (PROCESS, "CommandLine|re: '^b'", CL, ["b"], ["a\nb"]),
    (PROCESS, "CommandLine|re|s: 'a.b'", CL, ["a\nb"], ["ab"]),
    (PROCESS, "CommandLine|re: 'a.b'", CL, ["axb"], ["a\nb"]),
    (PROCESS, "CommandLine|re|contains: 'a|b'", CL, ["xbx"], ["xcx"]),
    (PROCESS, "CommandLine: 'a*b?c'", CL, ["axxbxc", "abyc"], ["abc", "xabyc"]),
    # Every character that means something to our glob, and Sigma's own escapes.
    (PROCESS, r"CommandLine: 'a[b]*(c)|{d}+!@x'", CL, ["A[b]--(c)|{d}+!@x"], ["ab(c)|{d}+!@x"]),
    (PROCESS, r"CommandLine: 'a\*b*c'", CL, ["a*bxc"], ["axbxc"]),
    (PROCESS, r"CommandLine|contains: 'a\?b'", CL, ["xa?bx"], ["xacbx"]),
    (PROCESS, r"CommandLine: 'a\\*'", CL, ["a\\x"], ["a*"]),
    (PROCESS, r"CommandLine: 'a\b\\*c'", CL, ["a\\b\\xc"], ["a\\b*xc"]),
    (PROCESS, "CommandLine|windash|contains: ' -x'", CL, ["a -x", "a /x", "a \u2013x"], ["a x"]),
    (PROCESS, "CommandLine|base64: id", CL, ["aWQ="], ["id"]),
    (
        PROCESS,
        "CommandLine|base64offset|contains: /bin/sh",
        CL,
        ["x L2Jpbi9za", "9iaW4vc2"],
        ["/bin/sh"],
    ),
    (PROCESS, "CommandLine|wide|base64offset|contains: id", CL, ["aQBkA"], ["aWQ="]),
    (PROCESS, 'CommandLine|contains: "\'\\"\\t\\\\n"', CL, ["a'\"\t\\nb"], ["a'\"\tnb"]),
    (PROCESS, "CommandLine|fieldref: ParentCommandLine", CL, ["PARENT"], ["parents"]),
    (PROCESS, "CommandLine|fieldref|startswith: ParentCommandLine", CL, ["parent x"], ["x parent"]),
    (PROCESS, "CommandLine|fieldref|endswith: ParentCommandLine", CL, ["x parent"], ["parent x"]),
    (PROCESS, "CommandLine|fieldref|contains: ParentCommandLine", CL, ["xparentx"], ["paren"]),
    (PROCESS, "CommandLine|neq: none", CL, ["x"], ["None"]),
    (PROCESS, "CommandLine: '*'", CL, ["x"], []),
    (PROCESS, "CommandLine|exists: true", CL, ["x"], []),
    (PROCESS, "CommandLine|exists: false", CL, [], ["x"]),
    (PROCESS, "CommandLine: null", CL, [], ["x"]),
    (PROCESS, "CommandLine: ''", CL, [], ["x"]),
    (PROCESS, "CurrentDirectory: /srv/x", "CurrentDirectory", ["/srv/x"], ["/srv/x/y"]),
    (PROCESS, "CurrentDirectory: /", "CurrentDirectory", ["/"], ["/x"]),
    (PROCESS, "LogonId|lt: 1000", "LogonId", [0], [1000]),
    (PROCESS, "LogonId|lte: 1000", "LogonId", [0, 1000], [2000]),
    (PROCESS, "LogonId|gt: 0", "LogonId", [1000], [0]),
    (PROCESS, "LogonId|gte: 1000", "LogonId", [1000], [0]),
    (PROCESS, "LogonId: '1000'", "LogonId", [1000], [0]),
    (PROCESS, "LogonId|startswith: '10'", "LogonId", [1000], [0]),
    (PROCESS, "ParentImage|endswith: /git", "ParentImage", ["/usr/bin/git"], ["/usr/bin/gitx"]),
    (PROCESS, "ParentCommandLine: 'git -p help'", "ParentCommandLine", ["git -p help"], ["git"]),
    (FILE, "TargetFilename|startswith: [/ETC/, /usr/]", TF, ["/etc/x", "/usr/x"], ["/x/etc/"]),
    (FILE, "TargetFilename|contains: [], Image|endswith: none", IM, [], ["/opt/none"]),
    (NETWORK, "DestinationPort: [22, 4444]", "DestinationPort", [22, 4444], [23]),
    (NETWORK, "DestinationPort|gt: 1023", "DestinationPort", [1024], [1023]),
    (NETWORK, "DestinationPort|re: '^5\\d$'", "DestinationPort", [55], [555]),
    (NETWORK, "SourcePort: 5", "SourcePort", [5], [50]),
    (
        NETWORK,
        "DestinationIp: ['10.0.0.1', '2001:DB8::1']",
        "DestinationIp",
        ["2001:db8::1"],
        ["::1"],
    ),
    (NETWORK, "DestinationIp|startswith: '10.'", "DestinationIp", ["10.1.1.1"], ["110.1.1.1"]),
    (NETWORK, "DestinationIp|cidr: 10.0.0.0/8", "DestinationIp", ["10.9.9.9"], ["11.0.0.1", "::1"]),
    (
        NETWORK,
        "DestinationIp|cidr: 'fc00::/7'",
        "DestinationIp",
        ["fd00::1"],
        ["fe80::1", "10.0.0.1"],
    ),
    (NETWORK, "SourceIp: 10.0.0.9", "SourceIp", ["10.0.0.9"], ["10.0.0.8"]),
    (
        NETWORK,
        "DestinationHostname|endswith: .Example.com",
        "DestinationHostname",
        ["a.example.com"],
        ["example.com", None],
    ),
    (NETWORK, "DestinationHostname: null", "DestinationHostname", [None], ["example.com"]),
    (NETWORK, "Initiated: 'true'", "Initiated", ["true"], ["false"]),
    (NETWORK, "Initiated: false", "Initiated", ["false"], ["true"]),
    (NETWORK, "Protocol: UDP", "Protocol", ["udp"], ["tcp"]),
)


@pytest.mark.parametrize("case", MODIFIERS, ids=lambda case: case[1])
def test_modifiers(case: tuple[str, str, str, list[Any], list[Any]]) -> None:
    category, detection, field, meeting, missing = case
    for expected, values in ((True, meeting), (False, missing)):
        for value in values:
            assert holds(rule(detection, category), category, **{field: value}) is expected, value


def test_conditions_join_selections() -> None:
    text = rule("CommandLine|contains: a").replace(
        "condition: s",
        "t1: {CommandLine|contains: b}\n  t2: {CommandLine|contains: c}\n"
        "  filter_x: {CommandLine|contains: d}\n"
        "  condition: (s and 1 of t*) or (all of t* and not 1 of filter_*)",
    )
    for line, expected in (("ab", True), ("ac", True), ("a", False), ("bc", True), ("bcd", False)):
        assert holds(text, PROCESS, CommandLine=line) is expected
    them = text.replace("(s and 1 of t*) or (all of t* and not 1 of filter_*)", "all of them")
    assert holds(them, PROCESS, CommandLine="abcd") and not holds(them, PROCESS, CommandLine="abc")
    anyone = them.replace("all of them", "1 of them")
    assert holds(anyone, PROCESS, CommandLine="d") and not holds(anyone, PROCESS, CommandLine="x")


def test_lists_of_mappings_are_alternatives() -> None:
    text = rule("").replace("s: {}", "s:\n    - CommandLine: a\n    - Image|endswith: /b")
    assert holds(text, PROCESS, CommandLine="a") and holds(text, PROCESS, Image="/x/b")
    assert not holds(text, PROCESS)


def test_only_events_of_the_log_source_count() -> None:
    rules = load_texts([(rule("Image|endswith: none", FILE), "r.yml")])
    for category, expected in ((PROCESS, False), (FILE, True), (NETWORK, False)):
        scene = Scene()
        add(scene, category, BASE[category])
        assert bool(Engine(rules, ACCOUNTS).match(scene.enriched())) is expected


def test_fields_of_our_own_language_work_by_their_names() -> None:
    rules = load_texts([(rule("container.image.repository|contains: agent"), "r.yml")])
    scene = Scene()
    scene.event(1, scene.process("x", workload=scene.container(image="acme/AGENT:1")))
    scene.event(1, scene.process("x", workload=scene.container(image="acme/other:1")))
    (match,) = Engine(rules, ACCOUNTS).match(scene.enriched())
    assert match.count == 1


def one(text: str) -> RuleSet:
    return load_texts([(text, "r.yml")])


def test_what_a_rule_keeps() -> None:
    more = (
        "id: 6c4e2f43-d94d-4ead-b64d-97e53fa2bd05\ndescription: |\n  Two\n  lines\n"
        "author: Ann (100%)\nlevel: high\ntags: [attack.execution, attack.t1059.004, car.x]\n"
    )
    found = one(rule("Image: x", title="Say 100%", more=more)).rule("Say 100%")
    assert (found.desc, found.priority, found.enabled) == ("Two lines", "ERROR", True)
    assert found.tags == ("attack.execution", "attack.t1059.004", "car.x", "T1059.004")
    assert found.definition.output.startswith("Say 100 (process=%proc.exepath ")
    assert found.definition.output.endswith(
        "rule=Sigma 6c4e2f43-d94d-4ead-b64d-97e53fa2bd05, by Ann (100))"
    )
    assert (found.place.path, found.place.line) == ("r.yml", 1)
    levels = {"informational": "INFORMATIONAL", "low": "NOTICE", "medium": "WARNING"}
    for level, priority in {**levels, "critical": "CRITICAL"}.items():
        assert one(rule("Image: x", more=f"level: {level}\n")).rules[0].priority == priority


@pytest.mark.parametrize("status", ["deprecated", "unsupported"])
def test_what_is_out_of_use_is_off_and_said(status: str) -> None:
    rules = one(rule("Image: x", more=f"status: {status}\n"))
    assert [found.enabled for found in rules.rules] == [False]
    assert [warning.place.line for warning in rules.warnings] == [3]
    assert status in rules.warnings[0].message


def test_titles_that_are_taken_get_the_id() -> None:
    ident = "id: {}c4e2f43-d94d-4ead-b64d-97e53fa2bd05\n"
    own = "- rule: r\n  desc: d\n  condition: evt.type = open\n  output: o\n  priority: INFO\n"
    texts = [rule("Image: x", more=ident.format(n)) for n in (1, 2)]
    rules = load_texts([(own, "own.yaml"), (texts[0] + "---\n" + texts[1], "r.yml")])
    assert [found.name for found in rules.rules] == ["r", "r (1c4e2f43)", "r (2c4e2f43)"]
    assert rules.rules[2].place.line == 7 + 1


def test_our_language_can_change_a_sigma_rule_that_came_before() -> None:
    change = (
        "- rule: r\n  exceptions:\n    - {name: mine, fields: proc.name, values: [child]}\n"
        "  override: {exceptions: append}\n"
    )
    text = rule("Image|endswith: none")
    for texts, expected in (([(text, "a.yml")], 1), ([(text, "a.yml"), (change, "b.yaml")], 0)):
        rules = load_texts(texts)
        assert not rules.errors
        scene = Scene()
        add(scene, PROCESS, BASE[PROCESS])
        assert len(Engine(rules, ACCOUNTS).match(scene.enriched())) == expected


LINE = "logsource: {product: linux, category: process_creation}"
# (what to put in, line, what is said, the mend)
REFUSED = (
    (rule("Imagee: x"), 4, "unknown field 'Imagee'", "did you mean 'Image'?"),
    (rule("Hashes|contains: x"), 4, "field 'Hashes' is not available: programs are not hashed", ""),
    (rule("Image|containss: x"), 4, "Unknown modifier", ""),
    (rule("Image|re: '(?=x)'"), 4, "(?=x)", ""),
    (rule("Image|re: '(x'"), 4, "invalid", ""),
    (rule("Image|cidr: 10.0.0.0/8"), 4, "'Image' is no address", ""),
    (rule("Image|gt: 5"), 4, "'Image' is no number", ""),
    (rule("Image|contains: 5"), 4, "incompatible", ""),
    (
        rule("Image|expand: '%names%'"),
        4,
        "placeholder %names% has no value",
        "write the values themselves",
    ),
    (rule("LogonId: x"), 4, "'x' is not a number", ""),
    (rule("LogonId|hour: 5"), 4, "parts of a time", ""),
    (rule("LogonId: 1.5"), 4, "never 1.5", ""),
    (rule("Image|fieldref: Imag"), 4, "unknown field 'Imag'", "did you mean 'Image'?"),
    (rule("Initiated: maybe", NETWORK), 4, "'maybe' is no value of 'Initiated'", "true, false"),
    (rule("DestinationIp: localhost", NETWORK), 4, "'localhost' is not a address", ""),
    (rule("SourceHostname: x", NETWORK), 4, "'SourceHostname' is not available", ""),
    (rule("Image: x").replace("linux", "windows"), 2, "product 'windows'", "only linux is"),
    (rule("Image: x", "dns_query"), 2, "category 'dns_query'", "process_creation, file_event"),
    (
        rule("Image: x").replace("category: process_creation", "service: auditd"),
        2,
        "service 'auditd'",
        "category",
    ),
    (rule("Image: x").replace(", category: process_creation", ""), 2, "without category", "one of"),
    (
        rule("Image: x").replace("condition: s", "condition: s | count() > 5"),
        5,
        "aggregations in a condition",
        "event_count",
    ),
    (rule("Image: x").replace("condition: s", "condition: s and t"), 5, "'t' not defined", ""),
    (rule("Image: x").replace("condition: s", "condition: s and (s"), 5, "", ""),
    (
        rule("").replace("s: {}", "s: [evil, wicked]"),
        4,
        "keywords search a whole line",
        "name the field",
    ),
    ("action: global\n" + rule("Image: x"), 1, "'action'", ""),
    (rule("Image: x").replace("detection:", "filter:"), 3, "Sigma filters", ""),
    (rule("Image: x, Image: y"), 4, "'Image' is given twice", ""),
    (rule("Image: [x"), 4, "not YAML", ""),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[2] or "parentheses")
def test_refusals_name_line_and_mend(case: tuple[str, int, str, str]) -> None:
    text, line, said, mend = case
    rules = one(text)
    assert rules.rules == []
    (error,) = rules.errors
    assert (error.place.path, error.place.line) == ("r.yml", line), str(error)
    assert said in error.message and mend in error.mend, str(error)


def test_one_refusal_leaves_the_others() -> None:
    rules = one(
        rule("Image: x", title="a") + "---\n" + rule("Nope: x") + "---\n" + rule("Image: y")
    )
    assert [found.name for found in rules.rules] == ["a", "r"]
    assert [error.place.line for error in rules.errors] == [6 + 4]


# Correlations

NAMED = "name: {0}\nid: {1}1111111-1111-1111-1111-111111111111\n"
A = rule("Image|endswith: /id", title="A", more=NAMED.format("a", 1))
B = rule("TargetFilename|startswith: /etc/", FILE, title="B", more=NAMED.format("b", 2))


def correlated(body: str, *bases: str) -> Reply:
    texts = [*bases, f"title: C\nlevel: high\ncorrelation:\n{body}"]
    return convert([SigmaText("c.yml", "---\n".join(texts))])


def sequence(body: str, *bases: str) -> dict[str, Any]:
    reply = correlated(body, *(bases or (A, B)))
    assert reply.problems == []
    (found,) = (item.body for item in reply.items if item.kind == "sequence")
    for step in found["steps"]:
        parse(step["condition"])
    return found


@pytest.mark.parametrize(
    ("condition", "count"), [("gte: 10", 10), ("gt: 9", 10), ("eq: 5", 5), ("gte: 1", 1)]
)
def test_event_count(condition: str, count: int) -> None:
    found = sequence(
        f"  type: event_count\n  rules: [a]\n  group-by: [User]\n  timespan: 5m\n"
        f"  condition: {{{condition}}}\n"
    )
    assert (found["by"], found["within"], found["priority"]) == (["user.name"], "5m", "ERROR")
    (step,) = found["steps"]
    assert step == {
        "id": "a_1",
        "condition": 'hw.class = exec and tolower(proc.exepath) endswith "/id"',
        "count": count,
    }


def test_event_count_of_several_rules_takes_any_of_them() -> None:
    other = rule("Image|endswith: /su", title="X", more=NAMED.format("x", 3))
    (step,) = sequence(
        "  type: event_count\n  rules: [a, x]\n  timespan: 1h\n  condition: {gte: 3}\n", A, other
    )["steps"]
    assert " or " in step["condition"] and step["count"] == 3


def test_value_count_counts_distinct_values() -> None:
    found = sequence(
        "  type: value_count\n  rules: b\n  group-by: Image\n  timespan: 30s\n"
        "  condition: {gte: 4, field: TargetFilename}\n"
    )
    assert found["by"] == ["proc.exepath"]
    assert (found["steps"][0]["count"], found["steps"][0]["distinct"]) == (4, "fs.path.name")


def test_temporal_with_aliases() -> None:
    body = (
        "  type: temporal\n  rules: [a, 21111111-1111-1111-1111-111111111111]\n"
        "  group-by: [User, who]\n  timespan: 2w\n"
        "  aliases: {who: {a: Image, 21111111-1111-1111-1111-111111111111: ParentImage}}\n"
    )
    found = sequence(body)
    assert (found["ordered"], found["within"]) == (False, "1209600s")
    assert [step["id"] for step in found["steps"]] == ["a_1", "b_2"]
    assert found["by"] == ["user.name", {"a_1": "proc.exepath", "b_2": "proc.pexepath"}]
    assert sequence(body.replace("temporal", "temporal_ordered"))["ordered"] is True


@pytest.mark.parametrize(
    ("body", "fires"),
    [
        ("type: event_count, rules: [a], condition: {gte: 3}", [2, 5, 6]),
        ("type: event_count, rules: [a], group-by: [User], condition: {gt: 1}", [1, 2, 5, 6]),
        ("type: event_count, rules: [a], condition: {gte: 1}", [0, 1, 2, 5, 6]),
        ("type: value_count, rules: [b], condition: {gte: 2, field: TargetFilename}", [4]),
        ("type: temporal, rules: [a, b], group-by: [User]", [3, 4, 5, 6]),
        ("type: temporal_ordered, rules: [b, a]", [5, 6]),
    ],
)
def test_a_correlation_runs_as_a_sequence(body: str, fires: list[int]) -> None:
    """id three times, two files below /etc, id twice; everything in one container and time."""
    text = "---\n".join([A, B, f"title: C\nlevel: high\ncorrelation: {{timespan: 5m, {body}}}\n"])
    rules = load_texts([(text, "c.yml")])
    assert not rules.errors, [str(error) for error in rules.errors]
    engine, scene = Engine(rules, ACCOUNTS), Scene()
    found = []
    events = [*[("p", "")] * 3, ("f", "/etc/a"), ("f", "/etc/b"), *[("p", "")] * 2]
    for at, (kind, path) in enumerate(events):
        category = PROCESS if kind == "p" else FILE
        changed = {"Image": "/usr/bin/id"} if kind == "p" else {"TargetFilename": path}
        add(scene, category, {**BASE[category], **changed})
        if "C" in {one.rule for one in engine.process(scene.enriched())}:
            found.append(at)
    assert found == fires


def test_the_rules_of_a_correlation_report_only_if_they_are_to() -> None:
    body = "  type: event_count\n  rules: [a]\n  timespan: 5m\n  condition: {gte: 2}\n"
    for more, reports in (("", False), ("  generate: true\n", True)):
        reply = correlated(body + more, A, B)
        assert [item.body.get("enabled") for item in reply.items] == [reports, True, None]
    # A correlation that is refused silences nothing.
    reply = correlated(body.replace("gte", "lt"), A, B)
    assert [item.body["enabled"] for item in reply.items] == [True, True]


C = "  type: {}\n  rules: [{}]\n  group-by: [{}]\n  timespan: {}\n  condition: {}\n"
WRONG = (
    (C.format("event_count", "a", "User", "5m", "{lt: 3}"), 8, "'lt' cannot be decided"),
    (C.format("event_count", "a", "User", "5m", "{neq: 3}"), 8, "'neq' cannot be decided"),
    (C.format("event_count", "a", "User", "5m", "{eq: 0}"), 8, "met by nothing"),
    (C.format("event_count", "z", "User", "5m", "{gte: 3}"), 5, "there is no rule 'z'"),
    (C.format("event_count", "a", "Usr", "5m", "{gte: 3}"), 6, "unknown field 'Usr'"),
    (C.format("event_count", "a", "User", "5x", "{gte: 3}"), 7, "Timespan '5x'"),
    (C.format("event_sum", "a", "User", "5m", "{gte: 3}"), 4, "'event_sum'"),
    (C.format("value_avg", "a", "User", "5m", "{gte: 3, field: LogonId}"), 4, "'value_avg'"),
    (C.format("temporal", "a, b", "User", "5m", "{gte: 1}"), 8, "all 2 rules"),
    (C.format("temporal", "a, b", "User", "5m", "a and not b"), 8, "over the rules' names"),
    (C.format("temporal", "a, b", "Initiated", "5m", "{gte: 2}"), 6, "'Initiated'"),
)


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case[2])
def test_correlations_that_cannot_be(case: tuple[str, int, str]) -> None:
    body, line, said = case
    reply = correlated(body, A, B)
    (problem,) = reply.problems
    assert said in problem.message
    assert problem.place.line - (A + "---\n" + B + "---\n").count("\n") == line, problem


# Files, the child and the command line


def test_sigma_is_known_by_what_it_holds() -> None:
    assert is_sigma(rule("Image: x")) and is_sigma("'detection' :\n  a: b\n")
    assert not is_sigma("- rule: detection\n  desc: >\n    detection: of things\n")


def test_a_folder_may_hold_both_and_the_child_reads_one_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(rule("Image: x", title="a"))
    (tmp_path / "b.yaml").write_text(rule("Image: x", title="b"))
    (tmp_path / "c.yaml").write_text(
        "- rule: c\n  desc: d\n  condition: evt.type = open\n  output: o\n  priority: INFO\n"
    )
    rules = load([tmp_path])
    assert sorted(found.name for found in rules.rules) == ["a", "b", "c"]


def test_child_without_pysigma_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # The child finds no `sigma` where nothing but our own code can be imported.
    monkeypatch.setattr(reader, "_MODULE", "hullwatch.nothing")
    (error,) = one(rule("Image: x")).errors
    assert "the reader of Sigma failed" in error.message and "nothing" in error.message
    monkeypatch.setattr(reader.subprocess, "run", lambda *_, **__: _Ended(reader.NO_PYSIGMA))
    (error,) = one(rule("Image: x")).errors
    assert "pip install 'hullwatch[sigma]'" in error.mend and error.place.path == "r.yml"


class _Ended:
    def __init__(self, returncode: int) -> None:
        self.returncode, self.stdout, self.stderr = returncode, b"", b""


def test_child_too_much_and_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_REQUEST", 100)
    assert "more than 100 bytes" in one(rule("Image: x")).errors[0].message
    monkeypatch.setattr(reader, "MAX_REQUEST", 1 << 20)
    monkeypatch.setattr(reader, "MAX_SECONDS", 0)
    assert "longer than" in one(rule("Image: x")).errors[0].message


def test_no_child_without_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader.subprocess, "run", None)
    assert load_texts([("- list: x\n  items: [a]\n", "x.yaml")]).errors == []


def run(capsys: Any, *argv: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert main(["rules", *map(str, argv)]) == code
    return capsys.readouterr()


def test_convert_prints_a_rule_file_that_means_the_same(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "s.yml"
    source.write_text(rule("CommandLine|contains: [' -i ', \"a\\\"b'\"], Image: x*y"))
    said = run(capsys, "convert", source)
    assert f"# {source}:1" in said.out
    made = tmp_path / "made.yaml"
    made.write_text(said.out)
    assert load([made]).digest == load([source]).digest
    row = json.loads(run(capsys, "convert", source, "--json").out)
    assert (row["rule"], row["place"]) == ("r", f"{source}:1:1")
    source.write_text(rule("Imagee: x"))
    refused = run(capsys, "convert", source, code=ExitCode.CONTENT)
    assert f"{source}:4:15: rule 'r': unknown field 'Imagee' (did you mean 'Image'?)" in refused.err
    assert "no Sigma rule" in run(capsys, "convert", made, code=ExitCode.CONTENT).err


def test_list_and_check_name_the_sigma_file(tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "s.yml"
    source.write_text("\n" + rule("Image: x"))
    (row,) = map(json.loads, run(capsys, "list", "--rules", source, "--json").out.splitlines())
    assert (row["rule"], row["place"], row["events"]) == ("r", f"{source}:2:1", ["exec"])
    assert "1 rules can run, 0 errors, 0 warnings" in run(capsys, "check", source).out
    assert "hw.class = exec" in run(capsys, "explain", "r", "--rules", source).out


def test_the_parent_of_the_child_never_imports_pysigma() -> None:
    import subprocess

    code = (
        "import sys; from hullwatch.detect import load_texts; "
        f"rules = load_texts([({rule('Image: x')!r}, 'r.yml')]); "
        "sys.exit(len(rules.rules) != 1 or 'sigma' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
