"""Folding: nothing is lost, nothing louder hides anything else, and a restart goes on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.workload import Workload
from hullwatch.detect import load_texts
from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.distinct import Distinct
from hullwatch.detect.engine import Engine
from hullwatch.detect.finding import SEVERITY, Finding, Match
from hullwatch.detect.fold import IDLE, LOUD, MAX_EVIDENCE, WINDOW, Folder
from hullwatch.detect.glob import glob_pattern, matcher
from hullwatch.detect.row import Env, Event, Object, Row
from hullwatch.detect.scene import Scene, make_image
from hullwatch.detect.shape import as_glob, shape
from hullwatch.sensor.wire import Class

SECOND = 10**9
ENV = Env(HostAccounts())
RULES = load_texts(
    [
        (
            "".join(
                f"- rule: {name}\n  desc: d\n  priority: {priority}\n  output: o %fd.name\n"
                "  condition: evt.type = openat\n"
                for name, priority in (("low", "NOTICE"), ("high", "ERROR"))
            ),
            "x.yaml",
        )
    ]
)


def match(
    text: str = "/a",
    rule: str = "low",
    container: int = 1,
    at: int = 0,
    count: int = 1,
    program: str = "/bin/cat",
    labels: int = 0,
    **more: object,
) -> Match:
    workload = Workload(
        cgroup=container, cgroup_path="", state="resolved", container_id=f"{container:064x}"
    )
    image = make_image(name="cat", exepath=program, argv=("cat", text), known=True)
    row = Row(
        Event(int(Class.OPEN), labels=labels), Object(text), None, image, workload, ts=at * SECOND
    )
    return Match(RULES.rule(rule), row, count, at * SECOND, **more)  # type: ignore[arg-type]


def folded(batches: list[list[Match]], **options: int) -> dict[str, Finding]:
    """The newest state of each finding."""
    folder = Folder(**options)
    found: dict[str, Finding] = {}
    for batch in batches:
        found |= {one.id: one for one in folder.fold(batch, ENV)}
    return found


# --- shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/proc/4711/environ", "/proc/*/environ"),
        ("/data/shard-00017.bin", "/data/shard-*.bin"),
        ("/run/0f8fad5b-d9cb-469f-a165-70867728950e/x", "/run/*/x"),
        ("/blobs/sha256/9f86d081884c7d659a2feaa0c55ad015", "/blobs/sha*/*"),
        ("/tmp/tmpab3dzk_q/plan", "/tmp/tmp*/plan"),
        ("/tmp/session-aB3xYz", "/tmp/session-*"),
        ("/root/.aws/credentials", "/root/.aws/credentials"),
        ("/etc/tmpfiles.d/cafe.conf", "/etc/tmpfiles.d/cafe.conf"),
        ("10.0.0.1:443", "10.0.0.1:443"),
        ("c2VjcmV0LWRhdGE5NQ4.evil.example", "*.evil.example"),
        ("", ""),
    ],
)
def test_what_is_volatile_is_generalised_and_no_more(text: str, expected: str) -> None:
    assert shape(text) == expected


@pytest.mark.parametrize("pair", [("/root/.ssh/id_rsa", "/root/.ssh/id_dsa"), ("/a/b", "/a/c")])
def test_different_names_are_different_shapes(pair: tuple[str, str]) -> None:
    assert shape(pair[0]) != shape(pair[1])


@given(st.text(max_size=80) | st.from_regex(r"/(tmp|proc)/[a-f0-9./_(*\[-]{0,40}", fullmatch=True))
def test_a_shape_is_a_pattern_of_its_texts_and_its_own_shape(text: str) -> None:
    found = shape(text)
    assert shape(found) == found
    if "\ud800" <= max(text, default=" ") <= "\udfff" or "\x00" in text:
        return
    assert matcher(glob_pattern(as_glob(found)))(text)


def test_the_number_of_distinct_things_is_never_too_high() -> None:
    few = Distinct()
    for number in range(3_000):
        few.add(number % 1_000)
        assert len(few) <= min(number + 1, 1_000)
    assert len(few) > 800


# --- folding ------------------------------------------------------------------------------


def test_labels_of_all_that_folded_are_told() -> None:
    (finding,) = folded([[match(labels=1 << 5), match(), match(labels=1)]]).values()
    assert (finding.count, finding.labels) == (3, ("secret", "label-5"))
    again = Folder()
    again.resume([finding])
    (more,) = again.fold([match(labels=1 << 2, at=1)], ENV)
    assert more.labels == ("secret", "untrusted", "label-5")


def test_numbered_objects_are_one_finding_with_distinct_evidence() -> None:
    files = [match(f"/data/part-{n}.bin", at=n, count=2) for n in range(50)]
    (finding,) = folded([files]).values()
    assert (finding.count, finding.shape) == (100, "/data/part-*.bin")
    assert (finding.first, finding.last) == (0, 49 * SECOND)
    assert len(finding.evidence) == MAX_EVIDENCE and 45 <= finding.distinct <= 50
    assert finding.object == "/data/part-0.bin"
    assert [one.object for one in finding.evidence[:2]] == ["/data/part-0.bin", "/data/part-1.bin"]
    assert {one.command for one in finding.evidence[1:2]} == {"cat /data/part-1.bin"}
    assert {one.count for one in finding.evidence} == {2}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "/b"},
        {"rule": "high"},
        {"container": 2},
        {"program": "/bin/tac"},
        {"suppressed_by": "s"},
        {"at": IDLE // SECOND + 1},
    ],
)
def test_what_differs_is_a_finding_of_its_own(other: dict) -> None:
    assert len(folded([[match()], [match(**other)]])) == 2


def test_what_policy_stopped_is_one_finding_for_each_workload() -> None:
    def stopped(text: str, **more: object) -> Match:
        base = match(text, **more)  # type: ignore[arg-type]
        return replace(base, row=replace(base.row, event=Event(int(Class.POLICY))))

    (first, second) = folded(
        [[stopped("/a"), stopped("/b", program="/bin/tac"), stopped("/a", container=2)]]
    ).values()
    assert (first.count, second.count) == (2, 1)
    assert [one.object for one in first.evidence] == ["/a", "/b"]


def test_where_a_file_was_moved_to_is_another_behaviour() -> None:
    def moved(to: str) -> Match:
        base = match("/tmp/x")
        event = Event(int(Class.RENAME))
        return replace(base, row=replace(base.row, event=event, obj2=Object(to)))

    found = folded([[moved("/etc/ld.so.preload"), moved("/tmp/y"), moved("/tmp/y")]])
    assert sorted(one.count for one in found.values()) == [1, 2]


def test_a_caller_s_text_for_the_same_file_is_no_other_behaviour() -> None:
    one = match("/run/secrets/token")
    other = replace(one, row=replace(one.row, obj2=Object("/var/run/secrets/token")))
    assert len(folded([[one, other]])) == 1


def test_severity_is_the_highest_there_ever_was() -> None:
    loud = match()
    loud = replace(loud, rule=replace(loud.rule, priority="ALERT"))
    for order in ([match(), loud], [loud, match()]):
        (finding,) = folded([[one] for one in order]).values()
        assert (finding.priority, finding.severity) == ("ALERT", SEVERITY["ALERT"])


MATCHES = st.lists(
    st.builds(
        match,
        text=st.sampled_from(["/a", "/b", *(f"/n/{n}" for n in range(40))]),
        rule=st.sampled_from(["low", "high"]),
        container=st.integers(1, 3),
        at=st.integers(0, 300),
        count=st.integers(1, 9),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(MATCHES, st.randoms(use_true_random=False))
def test_counts_times_and_evidence_whatever_the_order_and_the_batches(matches, random) -> None:
    def summary(found: dict[str, Finding]) -> dict[tuple, tuple]:
        return {
            (one.rule, one.container_full_id, one.shape): (
                one.count,
                one.first,
                one.last,
                one.severity,
            )
            for one in found.values()
        }

    whole = folded([matches])
    assert sum(one.count for one in whole.values()) == sum(one.count for one in matches)
    shuffled = matches[:]
    random.shuffle(shuffled)
    cut = random.randint(0, len(shuffled))
    assert summary(folded([shuffled[:cut], shuffled[cut:]])) == summary(whole)
    real: dict[tuple, set] = defaultdict(set)
    for one in matches:
        text = one.row.obj.text
        real[one.rule.name, one.row.workload.container_id, shape(text)].add(text)
    for one in whole.values():
        objects = {each.object for each in one.evidence}
        there = real[one.rule, one.container_full_id, one.shape]
        assert objects <= there and len(one.evidence) == min(len(there), MAX_EVIDENCE)
        assert len(one.evidence) <= one.distinct <= len(there)


# --- limits -------------------------------------------------------------------------------


def words(count: int, first: int = 0) -> list[str]:
    """Paths of as many shapes."""
    return ["/" + chr(97 + n // 676 % 26) + chr(97 + n // 26 % 26) + chr(97 + n % 26) for n in
            range(first, first + count)]  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(LOUD + 1, 400))
def test_a_loud_rule_is_bounded_and_hides_no_other_rule_and_no_other_workload(shapes) -> None:
    flood = [match(text) for text in words(shapes)]
    others = [match("/secret", rule="high"), match("/secret", container=2)]
    found = folded([flood, others]).values()
    assert len(found) == LOUD + 1 + 2
    (overflow,) = (one for one in found if one.shapes)
    assert overflow.count == shapes - LOUD
    assert 0 < overflow.shapes <= shapes - LOUD
    assert len(overflow.evidence) == min(MAX_EVIDENCE, shapes - LOUD)
    for other in others:
        (own,) = (
            one
            for one in found
            if (one.rule, one.container_full_id)
            == (other.rule.name, other.row.workload.container_id)
            and one.object == "/secret"
        )
        assert not own.shapes


def test_what_is_known_goes_on_by_itself_and_the_window_ends() -> None:
    window = WINDOW // SECOND
    folder = Folder()
    names = words(LOUD + 5)
    found = {one.id: one for one in folder.fold([match(text) for text in names], ENV)}
    (again,) = folder.fold([match(names[0], at=1)], ENV)
    assert again.count == 2 and not again.shapes
    (later,) = folder.fold([match("/later", at=window + 1)], ENV)
    assert later.id not in found and not later.shapes
    assert folder.overflowed == 5


def test_suppressed_noise_does_not_use_up_what_may_be_told() -> None:
    quiet = [match(text, suppressed_by="s") for text in words(100)]
    found = folded([quiet, [match("/x")]]).values()
    assert [one.object for one in found if not one.suppressed_by] == ["/x"]


def test_bounded_and_what_is_closed_early_is_counted() -> None:
    folder = Folder(limit=10)
    for container in range(50):
        folder.fold([match(container=container)], ENV)
    assert len(folder.open) == 10 and folder.evicted == 40


# --- restart ------------------------------------------------------------------------------


def stored(findings: list[Finding]) -> list[Finding]:
    decode = msgspec.json.Decoder(Finding).decode
    return [decode(msgspec.json.encode(one)) for one in findings]


@settings(max_examples=40)
@given(MATCHES, st.integers(0, 60))
def test_a_restart_goes_on_where_the_other_ended(matches, cut) -> None:
    first, second = Folder(), Folder()
    before = {one.id: one for one in first.fold(matches[:cut], ENV)}
    second.resume(stored(list(before.values())))
    after = before | {one.id: one for one in second.fold(matches[cut:], ENV)}
    whole = folded([matches])
    assert {one.id: one.count for one in after.values()} == {
        one.id: one.count for one in whole.values()
    }
    for ident, one in after.items():
        assert one.evidence == whole[ident].evidence
        assert one.distinct <= whole[ident].distinct


def test_a_restart_does_not_lift_the_limit() -> None:
    names = words(LOUD + 10)
    first = Folder()
    held = first.fold([match(text) for text in names[: LOUD + 2]], ENV)
    second = Folder()
    second.resume(stored(held))
    (finding,) = second.fold([match(text) for text in names[LOUD + 2 :]], ENV)
    assert finding.shapes and finding.count == 10


def test_findings_of_another_version_are_left_alone() -> None:
    (finding,) = folded([[match()]]).values()
    folder = Folder()
    folder.resume([msgspec.structs.replace(finding, fold="")])
    assert not folder.open


def test_the_engine_folds() -> None:
    engine, scene = Engine(RULES, HostAccounts()), Scene()
    cat = scene.process("cat")
    for number in range(200):
        scene.event(Class.OPEN, cat, call="openat", obj=scene.string(f"/data/{number}"), ret=3)
    found = engine.process(scene.enriched())
    assert sorted((one.rule, one.count, one.shape) for one in found) == [
        ("high", 200, "/data/*"),
        ("low", 200, "/data/*"),
    ]
