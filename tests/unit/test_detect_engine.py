"""The columnar engine against a plain evaluation, event by event."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.detect.accounts import HostAccounts, User
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load, load_texts
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class
from support.rowwise import meets
from support.scenes import random_scene

ROOT = Path(__file__).resolve().parents[2]
ACCOUNTS = HostAccounts(
    {0: User("root", "/root", "/bin/sh"), 33: User("www-data", "/", "/bin/false")}, {0: "root"}
)


def rule(condition: str, **more: str) -> tuple[str, str]:
    lines = [f"- rule: r\n  desc: d\n  output: o\n  priority: INFO\n  condition: '{condition}'"]
    lines += [f"  {key}: {value}" for key, value in more.items()]
    return "\n".join(lines), "t.yaml"


def matches(condition: str, scene: Scene) -> int:
    rules = load_texts([rule(condition.replace("'", "''"))])
    assert not rules.errors, rules.errors
    return sum(match.count for match in Engine(rules, ACCOUNTS).match(scene.enriched()))


@pytest.fixture(scope="module")
def everything() -> RuleSet:
    falco = ROOT.parent / "shared" / "conformance" / "falco"
    rules = load([ROOT / "rules", *([falco] if falco.exists() else [])])
    assert not rules.errors
    return rules


def plain_counts(engine: Engine, enriched: object) -> Counter[str]:
    found: Counter[str] = Counter()
    for at in range(enriched.batch.events.size):  # type: ignore[attr-defined]
        row = engine.row(enriched, at)  # type: ignore[arg-type]
        for one in engine.rules:
            # A sequence is no condition on one event; its steps, which are, are in the list.
            if one.sequence is None and meets(one.condition, row, engine.env):
                found[one.name] += 1
    return found


@pytest.mark.parametrize("seed", range(5))
def test_columnar_equals_row_by_row(everything: RuleSet, seed: int) -> None:
    engine = Engine(everything, ACCOUNTS)
    scene = random_scene(seed)
    enriched = scene.enriched()
    engine.env.wall_offset = int(enriched.batch.wall_offset)
    plain = plain_counts(engine, enriched)
    found: Counter[str] = Counter()
    for match in engine.match(enriched):
        found[match.rule.name] += match.count
    assert found == plain
    assert sum(plain.values()) > 20, "a scene that proves nothing"


def test_batches_share_what_was_worked_out(everything: RuleSet) -> None:
    """The same events in one batch, in many, and after a reset give the same matches."""
    scene = random_scene(99, 400)
    enriched = scene.enriched()
    whole = Counter[str]()
    for match in Engine(everything, ACCOUNTS).match(enriched):
        whole[match.rule.name] += match.count
    from dataclasses import replace

    engine = Engine(everything, ACCOUNTS)
    parts = Counter[str]()
    for number, rows in enumerate(np.array_split(np.arange(400), 17)):
        part = replace(
            enriched,
            batch=replace(enriched.batch, events=enriched.batch.events[rows]),
            image=enriched.image[rows],
            workload=enriched.workload[rows],
            names={
                i: enriched.names[int(row)]
                for i, row in enumerate(rows)
                if int(row) in enriched.names
            },
        )
        if number == 8:
            engine.reset()
        for match in engine.match(part):
            parts[match.rule.name] += match.count
    assert parts == whole


def test_overflowing_tables_fall_back_to_rows(
    everything: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    enriched = random_scene(5).enriched()
    expected = Counter(match.rule.name for match in Engine(everything, ACCOUNTS).match(enriched))
    engine = Engine(everything, ACCOUNTS)
    engine.objects.limit = 2
    found = Counter(match.rule.name for match in engine.match(enriched))
    assert engine.resets == 2
    assert found.keys() == expected.keys()


VALUES = st.sampled_from(("bash", "sh", "ba", "", "python3", "nginx", "sshd"))
CHECKS = st.one_of(
    st.builds(
        "proc.{} {} {!r}".format,
        st.sampled_from(("name", "pname", "aname", "aname[2]", "cmdline", "exepath", "cwd")),
        st.sampled_from(("=", "!=", "contains", "startswith", "endswith", "icontains", "<", ">=")),
        VALUES,
    ),
    st.builds("proc.{} exists".format, st.sampled_from(("name", "pname", "aname[3]", "aname"))),
    st.builds(
        "fd.name {} {!r}".format,
        st.sampled_from(("=", "!=", "startswith", "endswith", "contains", "glob", "pmatch")),
        st.sampled_from(
            ("/etc", "/etc/shadow", "/dev/*", "443", "10.0.0.9:40000->8.8.8.8:53", "*.ssh/*")
        ),
    ).map(lambda text: text.replace("pmatch '", "pmatch ('") + (")" if "pmatch" in text else "")),
    st.builds(
        "fd.{} {} {}".format,
        st.sampled_from(("num", "sport", "cport", "lport", "rport", "port")),
        st.sampled_from(("=", "!=", "<", "<=", ">", ">=")),
        st.sampled_from((-1, 0, 3, 53, 443, 8080)),
    ),
    st.builds(
        "fd.{} {} {}".format,
        st.sampled_from(("sip", "cip", "lip", "rip", "ip")),
        st.sampled_from(("=", "!=")),
        st.sampled_from(("8.8.8.8", "10.0.0.9", "2001:db8::1", "9.9.9.9")),
    ),
    st.builds(
        "fd.{} {} {}".format,
        st.sampled_from(("snet", "cnet", "lnet", "rnet", "net")),
        st.sampled_from(("=", "!=")),
        st.sampled_from(("10.0.0.0/8", "127.0.0.0/8", "2001:db8::/32")),
    ),
    st.builds(
        "evt.rawres {} {}".format,
        st.sampled_from(("=", "!=", "<", "<=", ">", ">=")),
        st.sampled_from((-2, 0, 1, 2, 9)),
    ),
    st.sampled_from(
        (
            *(
                "evt.res = ENOENT",
                "evt.failed = true",
                "evt.is_open_read = true",
                "fd.typechar = d",
            ),
            *("container.id != host", "container.image.repository endswith agent", "user.uid = 0"),
            *("not container.image.repository in (acme/agent)", "k8s.ns.name = kube-system"),
            *("proc.duration < 5000000000", "proc.name = val(proc.pname)", "evt.num > 100"),
            *("fd.sip.name startswith kube", "evt.arg.flags contains O_CREAT", "proc.tty != 0"),
            *("tolower(proc.name) = bash", "len(proc.cmdline) > 8", "evt.arg.res = 3"),
            *('concat(fd.rip, ":", fd.rport) = "8.8.8.8:53"', "evt.type in (openat, connect)"),
            *("evt.type in (execve, execveat)", "hw.class = exec_failed", "evt.rawres < 0"),
            *("evt.arg.filename startswith /etc", "toupper(evt.res) != EACCES"),
            *("fd.name startswith anyof (/etc, /dev)", "proc.cmdline contains allof (-c, id)"),
            *("fd.name = val(fd.nameraw)", "basename(fd.name) = shadow", "fd.nameraw contains ../"),
            *("evt.type.is.openat = 1", "evt.count.error.net = 1", "evt.count.error.file != 0"),
            *("evt.abspath startswith /etc", "evt.abspath.src = /tmp/x", "evt.is_async = false"),
            *("evt.abspath.dst contains ssh", "proc.is_pgid_leader = true", "evt.category = file"),
            *("proc.pgid.name in (sh, bash)", "container.is_pod_sandbox = false"),
            *("k8s.pod.id exists", "evt.hostname exists", "container.labels exists"),
            *("hw.container.state = unknown", "thread.cap_effective contains CAP_SYS_ADMIN"),
        )
    ),
)
CONDITIONS = st.recursive(
    CHECKS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.lists(inner, min_size=2, max_size=4).map(
            lambda many: " and ".join(f"({m})" for m in many)
        ),
        st.lists(inner, min_size=2, max_size=4).map(
            lambda many: " or ".join(f"({m})" for m in many)
        ),
    ),
    max_leaves=8,
)
SCENE = random_scene(7, 150).enriched()


@settings(max_examples=60, deadline=None)
@given(CONDITIONS)
def test_any_condition_equals_row_by_row(condition: str) -> None:
    rules = load_texts([rule(condition.replace("'", "''"), warn_evttypes="false")])
    if rules.errors:
        assert "never matches" in rules.errors[0].message
        return
    engine = Engine(rules, ACCOUNTS)
    engine.env.wall_offset = int(SCENE.batch.wall_offset)
    plain = plain_counts(engine, SCENE)
    found = sum(match.count for match in engine.match(SCENE))
    assert found == plain["r"], condition


@settings(max_examples=60, deadline=None)
@given(CONDITIONS)
def test_verdicts_never_hide_a_match(condition: str) -> None:
    """If an event meets a rule, the kernel is never told to leave such events out."""
    rules = load_texts([rule(condition.replace("'", "''"))])
    if rules.errors:
        return
    engine = Engine(rules, ACCOUNTS)
    tables = SCENE.tables
    assert tables is not None
    for at, event in enumerate(SCENE.batch.events):
        row = engine.row(SCENE, at)
        if not rules.rules[0].tree.ask(*engine.parts.truth(row)):
            continue
        cls, write = int(event["cls"]), bool(int(event["flags"]) & 3)
        obj, workload, image = int(event["obj"]), int(SCENE.workload[at]), int(SCENE.image[at])
        names = (row.name,) if row.name else ()
        assert engine.verdict(cls, write, obj, workload, tables) != "count"
        assert engine.verdict(cls, write, obj, workload, tables, names) != "count"
        assert engine.verdict_for_image(cls, write, obj, image, workload, tables) == "report"
        if row.obj is not None:
            assert engine.may_match(cls, write, row.obj)
            assert engine.may_match(cls, write, row.obj, row.workload, row.image)


def test_verdicts_let_the_kernel_be_quiet() -> None:
    rules = load_texts(
        [rule("evt.type=openat and fd.name=/etc/shadow and container.id!=host and proc.name=cat")]
    )
    engine, scene = Engine(rules), Scene()
    agent = scene.container(image="acme/agent:1")
    cat, sed = scene.process("cat", workload=agent), scene.process("sed", workload=agent)
    shadow, other = scene.string("/etc/shadow"), scene.string("/etc/hosts")
    tables = scene.tables()
    open_ = int(Class.OPEN)
    assert engine.verdict(open_, False, other, agent, tables) == "count"
    assert engine.verdict(open_, False, shadow, 0, tables) == "count"
    assert engine.verdict(open_, False, shadow, agent, tables) == "byproc"
    assert engine.verdict_for_image(open_, False, shadow, cat, agent, tables) == "report"
    assert engine.verdict_for_image(open_, False, shadow, sed, agent, tables) == "count"
    assert engine.verdict(int(Class.CONNECT), False, other, agent, tables) == "count"
    pending = scene.container(state="pending")
    assert engine.verdict(open_, False, shadow, pending, tables) == "byproc"


def test_write_flag_decides() -> None:
    engine, scene = (
        Engine(load_texts([rule("evt.type=openat and evt.is_open_write=true")])),
        Scene(),
    )
    path, tables = scene.string("/x"), scene.tables()
    assert engine.verdict(int(Class.OPEN), False, path, 0, tables) == "count"
    assert engine.verdict(int(Class.OPEN), True, path, 0, tables) == "report"


SPAWNED = "evt.type in (execve, execveat) and proc.name = sh"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (SPAWNED, 0),
        ("proc.name = sh", 0),
        ("evt.type = execve and evt.arg.filename endswith /nc", 0),
        (f"{SPAWNED} and evt.rawres >= 0", 0),
        (f"{SPAWNED} and evt.res = SUCCESS", 0),
        (f"{SPAWNED} and evt.res = ENOENT", 1),
        (f"{SPAWNED} and evt.failed = true", 1),
        (f"{SPAWNED} and not evt.rawres >= 0", 1),
        (f"{SPAWNED} and evt.arg.res = ENOENT", 1),
        (f"{SPAWNED} and tolower(evt.res) = enoent", 1),
        ("hw.class = exec_failed and evt.arg.filename endswith /nc", 1),
        ("evt.type = execve and hw.class != exec", 1),
        # One way to hold asks, another does not: only the first counts.
        (f"({SPAWNED}) or (evt.type = open and evt.failed = true)", 0),
        (f"({SPAWNED}) or (evt.type = execve and evt.failed = true)", 1),
        (f"{SPAWNED} and (proc.name = sh or evt.res = EACCES)", 0),
        (f"{SPAWNED} and (proc.name = ash or evt.res = ENOENT)", 1),
        (f"{SPAWNED} and not (proc.name = sh and evt.res != ENOENT)", 1),
    ],
)
def test_failed_exec_is_seen_only_by_those_who_ask(condition: str, expected: int) -> None:
    """Its proc.* is the caller, which has not been started by it."""
    scene = Scene()
    shell = scene.process("sh")
    scene.event(
        Class.EXEC_FAILED, shell, call="execve", obj=scene.string("/usr/bin/nc"), ret=-errno.ENOENT
    )
    assert matches(condition, scene) == expected


def test_failed_execs_are_counted_unless_a_rule_asks() -> None:
    scene = Scene()
    path, tables = scene.string("/usr/local/bin/ls"), scene.tables()
    failed = int(Class.EXEC_FAILED)

    def verdict(condition: str) -> str:
        return Engine(load_texts([rule(condition)])).verdict(failed, False, path, 0, tables)

    assert verdict(SPAWNED) == "count"
    assert verdict(f"{SPAWNED} and evt.failed = true") == "byproc"
    asked = "hw.class = exec_failed and evt.arg.filename = "
    assert verdict(f"{asked} /bin/su") == "count"
    assert verdict(f"{asked} /usr/local/bin/ls") == "report"


def test_a_rule_for_any_event_is_still_told_so() -> None:
    said = [warning.message for warning in load_texts([rule("proc.name = sh")]).warnings]
    assert any("no evt.type limits the rule" in one for one in said)


def test_pending_container_meets_neither_rule_nor_its_negation() -> None:
    for condition in (
        "evt.type=openat and container.id != host",
        "evt.type=openat and container.id = host",
        "evt.type=openat and not container.image.repository in (a, b)",
        "evt.type=openat and not k8s.ns.name exists",
    ):
        scene = Scene()
        slot = scene.container(state="pending")
        image = scene.process("cat", workload=slot)
        scene.event(Class.OPEN, image, call="openat", obj=scene.string("/x"), ret=3)
        assert matches(condition, scene) == 0, condition


def test_pending_container_is_asked_again_when_it_is_known() -> None:
    rules = load_texts([rule("evt.type=openat and not container.image.repository in (a)")])
    engine, scene = Engine(rules), Scene()
    slot = scene.container(state="pending")
    image = scene.process("cat", workload=slot)

    def batch() -> int:
        scene.event(Class.OPEN, image, call="openat", obj=scene.string("/x"), ret=3)
        return len(engine.match(scene.enriched()))

    assert batch() == 0
    scene.container(image="acme/b:1")
    scene.workloads[slot] = scene.workloads.pop()
    assert batch() == 1


def test_given_up_container_is_not_the_host() -> None:
    scene = Scene()
    slot = scene.container(state="unknown", container_id=None)
    image = scene.process("cat", workload=slot)
    scene.event(Class.OPEN, image, call="openat", obj=scene.string("/x"), ret=3)
    assert matches("evt.type=openat and container.id != host", scene) == 1


def test_released_slots_are_forgotten() -> None:
    rules = load_texts([rule("evt.type=openat and proc.name=cat and container.image.tag=1")])
    engine, scene = Engine(rules), Scene()
    slot = scene.container(image="a:1")
    image = scene.process("cat", workload=slot)
    scene.event(Class.OPEN, image, call="openat", obj=scene.string("/x"), ret=3)
    assert engine.match(scene.enriched())
    from dataclasses import replace

    old = scene.images[image]
    scene.images[image] = replace(old, program=replace(old.program, name="dog"))
    scene.event(Class.OPEN, image, call="openat", obj=scene.string("/x"), ret=3)
    assert not engine.match(replace(scene.enriched(), released_images=(image,)))


def test_ids_that_change_are_asked_again() -> None:
    rules = load_texts([rule("evt.type=openat and user.uid=0")])
    engine, scene = Engine(rules), Scene()
    image = scene.process("su", euid=1000)
    path = scene.string("/x")
    scene.event(Class.OPEN, image, call="openat", obj=path, ret=3)
    assert not engine.match(scene.enriched())
    scene.images[image].euid = 0
    scene.event(Class.SETID, image, call="setuid", num=0)
    scene.event(Class.OPEN, image, call="openat", obj=path, ret=3)
    assert engine.match(scene.enriched())


def test_dictionary_epochs() -> None:
    from dataclasses import replace

    rules = load_texts([rule("evt.type=openat and fd.name=/wanted")])
    engine, scene = Engine(rules), Scene()
    image = scene.process("cat")
    for number in range(3000):
        scene.string(f"/other/{number}")
    wanted = scene.string("/wanted")
    scene.event(Class.OPEN, image, call="openat", obj=wanted, ret=3)
    scene.event(Class.OPEN, image, call="openat", obj=1, ret=3)
    enriched = scene.enriched()
    later = replace(enriched, batch=replace(enriched.batch, dict_base=wanted - 5))
    assert (
        len(engine.match(enriched)) == len(engine.match(later)) == len(engine.match(enriched)) == 1
    )


def test_wild_dictionary_ids_cost_no_memory() -> None:
    engine, scene = Engine(load_texts([rule("evt.type=openat and not fd.name=/x")])), Scene()
    scene.event(Class.OPEN, scene.process("x"), call="openat", obj=0xFFFFFFFF, ret=3)
    assert len(engine.match(scene.enriched())) == 1
    assert engine.verdict(int(Class.OPEN), False, 0xFFFFFFF0, 0, scene.tables()) == "report"
    assert engine._object_slots.values.size < 100_000


def test_empty_batch_and_unknown_class() -> None:
    engine, scene = Engine(load_texts([rule("evt.type=openat")])), Scene()
    assert engine.process(scene.enriched()) == []
    scene.event(95, scene.process("x"))
    assert engine.process(scene.enriched()) == []


def test_findings_fold_and_explain_themselves() -> None:
    rules = load_texts(
        [
            (
                "- rule: read\n  desc: d\n  priority: ERROR\n  tags: [T1003]\n"
                "  condition: evt.type=openat and fd.name startswith /etc\n"
                "  output: read %fd.name by %proc.cmdline in %container.info %proc.aname[3]",
                "x.yaml",
            )
        ]
    )
    engine, scene = Engine(rules, ACCOUNTS), Scene()
    slot = scene.container(image="ghcr.io/a/b:1", name="b")
    sh = scene.process("sh", workload=slot)
    cat = scene.process("cat", parent=sh, argv=("cat", "a\n\x1b[31m\u202eb"))
    shadow = scene.string("/etc/shadow")
    for _ in range(5):
        scene.event(Class.OPEN, cat, call="openat", obj=shadow, ret=3)
    (first,) = engine.process(scene.enriched())
    assert first.count == 5 and first.rule == "read" and first.severity == 4
    assert first.output == (
        "read /etc/shadow by cat a\\n\\x1b[31m\\u202eb in container_id=000000000000 "
        "container_name=b <NA>"
    )
    assert [process.name for process in first.processes] == ["cat", "sh"]
    assert (
        first.source == "x.yaml:1:3" and first.image == "ghcr.io/a/b:1" and first.last > first.first
    )
    scene.event(Class.OPEN, cat, call="openat", obj=shadow, ret=3)
    scene.event(Class.OPEN, cat, call="openat", obj=scene.string("/etc/passwd"), ret=3)
    again, other = engine.process(scene.enriched())
    assert (again.id, again.count, again.first) == (first.id, 6, first.first)
    assert other.id != first.id and other.object == "/etc/passwd"
