"""Rules over time: what they find, what they keep, and that they agree with the plain meaning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load_texts
from hullwatch.detect.scene import START, WALL, Scene
from hullwatch.detect.sequence import sequences as module
from hullwatch.detect.sequence.sequences import Saved
from hullwatch.sensor.wire import Class
from support.sequence_oracle import Event, Plan, fires

SECOND = 10**9


def load(text: str) -> RuleSet:
    found = load_texts([(text, "rules.yaml")])
    assert not found.errors, [str(error) for error in found.errors]
    return found


def sequence(steps: str, by: str = "[container]", within: str = "60s", extra: str = "") -> str:
    return f"""
- sequence: Story
  desc: A test.
  by: {by}
  within: {within}
  {extra}
  steps:
{steps}
  output: Story | command=%proc.cmdline
  priority: ERROR
  tags: [ASI01]
"""


READ_THEN_CONNECT = sequence(
    """
    - id: read
      condition: evt.type in (open, openat) and fd.name endswith /token
    - id: leave
      condition: evt.type = connect and fd.typechar in (4, 6)
"""
).replace("Story | command=", "Story | file=%read.fd.name by=%read.proc.name to=%fd.name command=")


class World:
    """An engine and a scene; events are handed over one batch at a time."""

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.scene = Scene()
        self.engine = Engine(rules, HostAccounts())

    def open(self, image: int, path: str) -> None:
        self.scene.event(int(Class.OPEN), image, call="openat", obj=self.scene.string(path), ret=3)

    def connect(self, image: int, to: str) -> None:
        self.scene.event(
            int(Class.CONNECT), image, call="connect", obj=self.scene.address(to),
            flags=2 << 16 | 1 << 8 | 6,
        )  # fmt: skip

    def run(self) -> list[Any]:
        return self.engine.process(self.scene.enriched())

    def restarted(self) -> None:
        """As after a kill: a new engine that knows what was kept."""
        kept: dict[tuple[str, str], Saved] = {}
        for one in self.engine.sequences.changes():
            kept[one.rule, one.key] = one
        self.engine = Engine(self.rules, HostAccounts())
        self.engine.sequences.restore(one for one in kept.values() if one.body)


def test_two_steps_of_one_container_make_one_finding_with_the_story() -> None:
    world = World(load(READ_THEN_CONNECT))
    one = world.scene.container(image="a/b:1", name="one")
    server = world.scene.process("python3", workload=one)
    curl = world.scene.process("curl", parent=server)
    world.open(server, "/run/secrets/token")
    assert world.run() == []
    world.scene.wait(30 * SECOND)
    world.connect(curl, "198.51.100.7:443")
    (found,) = world.run()
    assert found.rule == "Story"
    assert found.severity == 4
    assert found.output == (
        "Story | file=/run/secrets/token by=python3 to=0.0.0.0:0->198.51.100.7:443 command=curl"
    )
    assert found.fields["read.fd.name"] == "/run/secrets/token"
    assert [(step.step, step.event, step.object, step.process) for step in found.steps] == [
        ("read", "open", "/run/secrets/token", "python3"),
        ("leave", "connect", "198.51.100.7:443", "curl"),
    ]
    assert found.steps[1].time - found.steps[0].time >= 30 * SECOND
    assert found.container_name == "one"


def test_too_late_too_early_or_in_another_container_is_no_story() -> None:
    world = World(load(READ_THEN_CONNECT))
    one, two = (world.scene.container(image="a/b:1") for _ in range(2))
    here, there = (world.scene.process("python3", workload=each) for each in (one, two))
    world.connect(here, "198.51.100.7:443")
    world.open(here, "/token")
    world.connect(there, "198.51.100.7:443")
    world.scene.wait(61 * SECOND)
    world.connect(here, "198.51.100.7:443")
    assert world.run() == []


def test_steps_are_not_told_by_themselves_and_the_rule_they_name_still_is() -> None:
    rules = load(
        """
- rule: Token read
  desc: Said by itself.
  condition: evt.type = openat and fd.name endswith /token
  output: Token read
  priority: NOTICE
  exceptions:
    - {name: fine, fields: fd.name, values: [/fine/token]}
"""
        + sequence(
            """
    - rule: Token read
    - condition: evt.type = connect
"""
        )
    )
    world = World(rules)
    image = world.scene.process("python3", workload=world.scene.container(image="a"))
    world.open(image, "/fine/token")
    world.connect(image, "1.1.1.1:1")
    assert world.run() == []
    world.open(image, "/token")
    world.connect(image, "1.1.1.1:1")
    assert sorted(found.rule for found in world.run()) == ["Story", "Token read"]


@pytest.mark.parametrize(
    ("reader", "sender", "joined"),
    [
        ("entry", "entry", True),
        ("entry", "grandchild", True),
        ("grandchild", "entry", True),
        ("child", "grandchild", True),
        ("grandchild", "sibling", True),  # below the same child of the first process
        ("grandchild", "cousin", False),
        ("cousin", "child", False),
        ("entry", "exec", False),  # brought in from outside: a tree of its own
    ],
)
def test_a_tree_is_a_process_with_all_above_below_and_beside_it(
    reader: str, sender: str, joined: bool
) -> None:
    world = World(load(READ_THEN_CONNECT.replace("[container]", "[tree]")))
    scene = world.scene
    shim = scene.process("shim")
    of = scene.container(image="a")
    entry = scene.process("python3", parent=shim, workload=of)
    child = scene.process("sh", parent=entry)
    tree = {
        "entry": entry,
        "child": child,
        "grandchild": scene.process("cat", parent=child),
        "sibling": scene.process("curl", parent=child),
        "cousin": scene.process("cron", parent=entry),
        "exec": scene.process("sh", parent=shim, workload=of),
    }
    world.open(tree[reader], "/token")
    world.run()
    world.connect(tree[sender], "1.1.1.1:1")
    assert bool(world.run()) is joined


def test_a_step_may_be_joined_by_another_field_of_each_step() -> None:
    text = sequence(
        """
    - id: write
      condition: evt.type = openat and evt.is_open_write = true
    - id: run
      condition: evt.type = execve
""",
        by="[container, {write: fd.name, run: proc.exepath}]",
    )
    world = World(load(text))
    of = world.scene.container(image="a")
    image = world.scene.process("sh", workload=of)
    world.scene.event(
        int(Class.OPEN), image, call="openat", obj=world.scene.string("/opt/new"), flags=1, ret=3
    )
    for path, expected in (("/opt/other", 0), ("/opt/new", 1)):
        made = world.scene.process("x", parent=image, exepath=path)
        world.scene.event(int(Class.EXEC), made, call="execve", obj=world.scene.string(path))
        assert len(world.run()) == expected


def test_counts_and_distinct_values() -> None:
    text = sequence(
        """
    - condition: evt.type = openat
      count: 5
"""
    )
    text += text.replace("Story", "Many").replace("count: 5", "count: 3\n      distinct: fd.name")
    world = World(load(text))
    image = world.scene.process("sh", workload=world.scene.container(image="a"))
    for path in ("/a", "/a", "/a", "/b"):
        world.open(image, path)
    assert world.run() == []
    world.open(image, "/b")
    assert [(found.rule, found.count) for found in world.run()] == [("Story", 1)]
    for _ in range(10):
        world.open(image, "/c")
    # The fold goes on from the one before; every event completes both counts.
    counts = {finding.rule: finding.count for finding in world.run()}
    assert counts == {"Story": 1 + 10, "Many": 10}
    world.scene.wait(61 * SECOND)
    world.open(image, "/d")
    assert world.run() == []


def test_a_value_seen_again_still_counts_beside_the_others() -> None:
    text = sequence(
        """
    - condition: evt.type = openat
      count: 2
      distinct: fd.name
"""
    )
    world = World(load(text))
    image = world.scene.process("sh", workload=world.scene.container(image="a"))
    told = []
    for path in ("/a", "/b", "/b", "/a", "/a"):  # each in a batch of its own
        world.open(image, path)
        told.append(bool(world.run()))
    assert told == [False, True, True, True, True]


def test_the_state_survives_a_restart_and_a_changed_sequence_begins_anew() -> None:
    world = World(load(READ_THEN_CONNECT))
    image = world.scene.process("python3", workload=world.scene.container(image="a"))
    world.open(image, "/token")
    world.run()
    world.restarted()
    world.connect(image, "1.1.1.1:1")
    (found,) = world.run()
    assert [step.step for step in found.steps] == ["read", "leave"]

    world.open(image, "/token")
    world.run()
    world.rules = load(READ_THEN_CONNECT.replace("60s", "59s"))
    world.restarted()
    world.connect(image, "1.1.1.1:1")
    assert world.run() == []


def test_a_broken_kept_state_is_left_out() -> None:
    world = World(load(READ_THEN_CONNECT))
    (rule,) = world.engine.sequences.rules
    broken = [
        Saved("Story", key, rule.hash, False, WALL, body)
        for key, body in (("[]", "{"), ("{}", "[0,{},{},{}]"), ('["a"]', '["x"]'))
    ]
    assert world.engine.sequences.restore([*broken, Saved("?", "[]", "", False, 0, "[]")]) == 0


def test_a_flood_of_keys_is_bounded_counted_and_hides_only_its_own_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_COST", 100)
    text = READ_THEN_CONNECT + sequence(
        """
    - condition: evt.type = openat
    - condition: evt.type = execve
""",
        by="[container, fd.name]",
    ).replace("Story", "Flood")
    world = World(load(text))
    image = world.scene.process("python3", workload=world.scene.container(image="a"))
    world.open(image, "/token")
    world.run()
    for number in range(500):
        world.open(image, f"/f/{number}")
        if number % 50 == 0:
            world.run()
    world.run()
    stats = world.engine.sequences.stats()
    assert stats["keys"] <= 100
    assert stats["evicted"] >= 400
    world.connect(image, "1.1.1.1:1")
    assert [found.rule for found in world.run()] == ["Story"]


def test_what_has_expired_is_dropped() -> None:
    world = World(load(READ_THEN_CONNECT))
    of = world.scene.container(image="a")
    for _ in range(20):
        world.open(world.scene.process("p", workload=of), "/token")
        world.run()
    assert world.engine.sequences.stats()["keys"] == 1
    other = world.scene.process("p", workload=world.scene.container(image="b"))
    world.scene.wait(61 * SECOND)
    world.open(other, "/token")
    world.run()
    assert world.engine.sequences.stats()["keys"] == 1
    assert any(not saved.body for saved in world.engine.sequences.changes())


def test_the_kernel_must_send_what_a_step_is_about() -> None:
    engine = Engine(load(READ_THEN_CONNECT), HostAccounts())
    assert engine.may_match(int(Class.OPEN), False, "/run/token")
    assert not engine.may_match(int(Class.OPEN), False, "/etc/hosts")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("  by: [container]\n", ""), "'by' is missing"),
        (("[container]", "[contianer]"), "container"),
        (("[container]", "[fd.ip]"), "has many values"),
        (("[container]", "[{read: fd.name}]"), "no field for step 'leave'"),
        (("[container]", "[{raed: fd.name, leave: fd.name}]"), "there is no step 'raed'"),
        (("60s", "32d"), "up to 31d"),
        (("60s", "soon"), "is not a duration"),
        (("id: read", "id: fd"), "cannot be a step's id"),
        (("id: leave", "id: read"), "given twice"),
        (("id: leave", "idd: leave"), "unknown key 'idd'"),
        (("id: leave", "distinct: fd.name"), "needs a 'count'"),
        (("id: leave", "count: 0"), "a number from 1"),
        (("condition: evt.type = connect and fd.typechar in (4, 6)", "rule: X"), "no earlier rule"),
        (("evt.type = connect", "evt.type = connekt"), "'connekt' is no event type"),
        (("%read.fd.name", "%read.fd.nmae"), "in the output: unknown field"),
        (("priority: ERROR", "priority: BAD"), "is not a priority"),
        (("evt.type in (open, openat)", "evt.type = bpf and evt.type = open"), "never"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(change: tuple[str, str], said: str) -> None:
    assert change[0] in READ_THEN_CONNECT
    found = load_texts([(READ_THEN_CONNECT.replace(*change), "rules.yaml")])
    (error,) = found.errors
    assert said in str(error)
    assert str(error).startswith("rules.yaml:")
    assert error.place.line > 1
    assert not found.rules


def test_a_single_step_without_a_count_is_refused() -> None:
    found = load_texts([(sequence("    - condition: evt.type = openat"), "rules.yaml")])
    assert "is a rule" in str(found.errors[0])


def test_a_sequence_can_be_switched_off() -> None:
    text = READ_THEN_CONNECT + "\n- {sequence: Story, enabled: false}\n"
    rules = load(text)
    assert not rules.rule("Story").enabled
    assert not rules.steps


# Against the plain meaning

CHAINS = {
    # name: container, ancestors up to the container's first process
    "a0": ("a", ("a0",)),
    "a1": ("a", ("a1", "a0")),
    "a2": ("a", ("a2", "a1", "a0")),
    "a3": ("a", ("a3", "a0")),
    "b0": ("b", ("b0",)),
}
PATHS = ("/0", "/1", "/01", "/other")
moments = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(sorted(CHAINS)), st.sampled_from(PATHS)),
    max_size=40,
)


@st.composite
def plans(draw: Any) -> Plan:
    steps = draw(st.integers(1, 3))
    counts = tuple(draw(st.sampled_from((1, 1, 2, 3, 4))) for _ in range(steps))
    if steps == 1:
        counts = (draw(st.integers(2, 4)),)
    distinct = tuple(count > 1 and draw(st.booleans()) for count in counts)
    by = draw(st.sampled_from(("container", "tree")))
    return Plan(draw(st.integers(1, 100)), draw(st.booleans()), counts, distinct, by)


def text_of(plan: Plan) -> str:
    steps = ""
    for number, count in enumerate(plan.counts):
        wanted = f"fd.name startswith /{number}" if number < 2 else "fd.name startswith /"
        steps += f"    - condition: evt.type = openat and {wanted}\n      count: {count}\n"
        if plan.distinct[number]:
            steps += "      distinct: fd.name\n"
    return sequence(
        steps, f"[{plan.by}]", f"{plan.within}s", f"ordered: {str(plan.ordered).lower()}"
    )


@given(plans(), moments, st.lists(st.integers(0, 40), max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_same_as_the_plain_meaning(
    plan: Plan, happened: list[tuple[int, str, str]], cuts: list[int], restart: bool
) -> None:
    """Whatever the batches, and over restarts."""
    world = World(load(text_of(plan)))
    scene = world.scene
    containers = {name: scene.container(image=name) for name in "ab"}
    slots: dict[str, int] = {}
    for name, (container, chain) in CHAINS.items():
        parent = slots[chain[1]] if len(chain) > 1 else None
        fields = {"parent": parent} if parent is not None else {}
        slots[name] = scene.process(name, workload=containers[container], **fields)
    events: list[Event] = []
    time = 0
    counts: dict[str, int] = {}
    for number, (after, who, path) in enumerate(happened):
        time += after
        scene._ts = START + time * SECOND
        world.open(slots[who], path)
        steps = frozenset(
            step
            for step in range(len(plan.counts))
            if path.startswith(f"/{step}" if step < 2 else "/")
        )
        container, chain = CHAINS[who]
        events.append(Event(time, steps, container, tuple(map(hash, chain)), path))
        if number in cuts:
            _count(world, counts)
            if restart:
                world.restarted()
    _count(world, counts)
    assert sum(counts.values()) == len(fires(plan, events))


def _count(world: World, counts: dict[str, int]) -> None:
    for match in world.engine.judge(world.scene.enriched()):
        counts[match.rule.name] = counts.get(match.rule.name, 0) + match.count
