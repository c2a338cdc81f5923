"""The kernel counts what an image is known to do, and goes on reporting what may be new."""

from __future__ import annotations

from hullwatch.feedback import Feedback
from hullwatch.sensor.verdicts import Counted
from hullwatch.sensor.wire import ACTION_WRITE, Class, Verdict
from support.baselines import DIGEST, Town

NEW = """
- rule: new
  desc: d
  condition: hw.kind in (read, connect) and hw.first_seen = true
  output: "%hw.object"
  priority: NOTICE
"""
DRIFT = """
- rule: drift
  desc: d
  condition: hw.kind exists and hw.drift = true
  output: "%hw.object"
  priority: WARNING
"""
OPEN, WRITE, CONNECT = int(Class.OPEN), int(Class.OPEN) | ACTION_WRITE, int(Class.CONNECT)


class Kernel:
    """Stands in for the verdict map: what was put, and whether all of it was voided."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int, int], int] = {}
        self.voids = 0

    def put(self, scope: int, obj: int, action: int, verdict: int) -> None:
        self.held[scope, obj, action] = verdict

    def void_all(self) -> None:
        self.held.clear()
        self.voids += 1

    def counted(self) -> list[Counted]:
        return []


class Agent(Town):
    def __init__(self, rules: str) -> None:
        super().__init__(rules)
        self.kernel = Kernel()
        self.feedback = Feedback(self.engine, self.kernel)  # type: ignore[arg-type]

    def turn(self) -> list[str]:
        made = self.scene.enriched()
        found = [one.output for one in self.engine.process(made)]
        self.feedback.answer(made)
        return found

    def verdict(self, obj: int, action: int) -> int:
        (answer,) = [v for (_, o, a), v in self.kernel.held.items() if (o, a) == (obj, action)]
        return answer


def test_what_was_seen_is_counted_from_then_on():
    agent = Agent(NEW)
    agent.do("read", "/etc/hosts")
    agent.do("read", "/etc/gone", ret=-2)
    agent.turn()
    scene = agent.scene
    assert agent.verdict(scene.string("/etc/hosts"), OPEN) == Verdict.COUNT
    # It was not there; when it is, that is the first time.
    assert agent.verdict(scene.string("/etc/gone"), OPEN) == Verdict.REPORT
    agent.wait(700)
    agent.do("read", "/etc/new")
    agent.do("read", "/etc/gone")
    assert sorted(agent.turn()) == ["/etc/gone", "/etc/new"]
    assert agent.verdict(scene.string("/etc/new"), OPEN) == Verdict.COUNT


def test_without_a_lock_drift_costs_nothing():
    agent = Agent(DRIFT)
    agent.do("read", "/etc/gone", ret=-2)
    agent.do("write", "/data/x")
    agent.turn()
    assert set(agent.kernel.held.values()) == {int(Verdict.COUNT)}


def test_a_lock_voids_and_then_only_drift_is_reported():
    agent = Agent(DRIFT)
    agent.do("read", "/etc/hosts")
    agent.do("write", "/data/x")
    agent.turn()
    agent.wait(1)
    agent.baselines.judge(DIGEST, agent.wall, [("read", "/srv/*")])
    agent.wait(1)
    for kind, name in (
        ("read", "/etc/hosts"),
        ("read", "/etc/other"),
        ("write", "/etc/hosts"),
        ("write", "/data/x"),
        ("read", "/srv/page"),
    ):
        agent.do(kind, name)
    assert sorted(agent.turn()) == ["/etc/hosts", "/etc/other"]
    assert agent.kernel.voids == 1
    string = agent.scene.string
    assert agent.verdict(string("/etc/hosts"), OPEN) == Verdict.COUNT
    assert agent.verdict(string("/etc/other"), OPEN) == Verdict.REPORT
    assert agent.verdict(string("/etc/hosts"), WRITE) == Verdict.REPORT
    assert agent.verdict(string("/data/x"), WRITE) == Verdict.COUNT
    assert agent.verdict(string("/srv/page"), OPEN) == Verdict.COUNT


def test_unlocking_and_forgetting_void_as_well():
    agent = Agent(DRIFT)
    for step, change in enumerate(
        (
            lambda: agent.baselines.judge(DIGEST, agent.wall, ()),
            lambda: agent.baselines.judge(DIGEST, None, ()),
            lambda: agent.baselines.drop(DIGEST),
        ),
        1,
    ):
        agent.do("read", "/etc/hosts")
        agent.turn()
        agent.wait(1)
        change()
        agent.do("read", "/etc/hosts")
        agent.turn()
        assert agent.kernel.voids == step


def test_an_address_is_always_reported_as_it_may_get_another_name():
    """The name comes with a DNS answer just before: no verdict could be changed in time."""
    agent = Agent(NEW)
    address = agent.scene.address("198.51.100.7:443")
    agent.do("connect", "a.example.com=198.51.100.7:443")
    agent.do("connect", "/run/x.sock")
    agent.turn()
    assert agent.verdict(address, CONNECT) == Verdict.REPORT
    assert agent.verdict(agent.scene.address("/run/x.sock"), CONNECT) == Verdict.COUNT
    agent.wait(700)
    agent.do("connect", "b.example.com=198.51.100.7:443")
    agent.do("connect", "a.example.com=198.51.100.7:443")
    assert agent.turn() == ["b.example.com:443"]


def test_no_destination_is_reported_for_the_sake_of_locks_that_are_not():
    agent = Agent(DRIFT)
    agent.do("connect", "198.51.100.7:443")
    agent.turn()
    assert agent.verdict(agent.scene.address("198.51.100.7:443"), CONNECT) == Verdict.COUNT


def test_the_pack_counts_known_files():
    from hullwatch.detect import load
    from support.scratch import REPOSITORY

    agent = Agent(NEW)
    engine = type(agent.engine)(load([REPOSITORY / "rules"]), baselines=agent.baselines)
    agent.engine = engine
    agent.feedback = Feedback(engine, agent.kernel)
    agent.do("listen", "0.0.0.0:8080")
    agent.do("read", "/usr/share/doc/x")
    agent.do("write", "/var/lib/db/1")
    agent.turn()
    assert set(agent.kernel.held.values()) == {int(Verdict.COUNT)}
