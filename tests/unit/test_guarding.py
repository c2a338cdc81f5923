"""Policies kept in force: what is filled when, and what a failure leaves. The maps are dictionaries
here (support/guarded.py); the kernel's own are in tests/live."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hullwatch import guarding, verdicts
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import LogError
from hullwatch.decide.plan import Plan, Tool
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.guarding import MAX_NAMES_OF, Named
from hullwatch.questions import Act, Actor
from hullwatch.sensor.guard import GuardError
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.wire import Class, Done
from hullwatch.verdicts import Stopped
from support.guard_maps import PASSES, STOPPED, TOLD, Noted, Steered

RESOLVER = "10.9.9.9"
ONE = Workload(
    cgroup=101, cgroup_path="/1", state="resolved", container_id="1" * 64, name="one"
)  # fmt: skip
TWO = msgspec.structs.replace(ONE, cgroup=102, container_id="2" * 64, name="two")
NO_NET = """
@id("no-net") forbid (principal, action == Action::"connect", resource is Address)
when { resource has ip && resource.ip.isInRange(ip("10.0.0.0/8")) };
"""
NO_SHELL = '@id("no-shell") forbid (principal, action == Action::"exec", resource is Binary) when {'
NO_SHELL += ' resource.name == "sh" };'
BY_NAME = """
@id("listed") permit (principal, action == Action::"connect", resource is Host)
when { resource.name like "*.acme.example" };
@id("never") forbid (principal, action == Action::"connect", resource is Host)
when { resource.name == "bad.acme.example" };
@id("one") forbid (principal, action == Action::"exec", resource)
when { context has container && context.container == "one" };
"""


@pytest.fixture
def here() -> Steered:
    made = Steered((RESOLVER,))
    made.guarding.found([ONE, TWO])
    return made


def named(
    here: Steered, name: str, address: str, cgroup: int = 101, server: str = RESOLVER
) -> None:
    here.guarding.named([Named(0, cgroup, ipaddress.ip_address(server), name, (address,))])


def nets(here: Steered) -> str:
    return here.kernel.end(101, "connect", "10.1.2.3", 443)


def shells(here: Steered, cgroup: int = 101) -> str:
    return here.kernel.path(cgroup, "exec", b"/bin/sh")


def test_a_set_is_filled_before_it_is_in_force(here: Steered, monkeypatch: pytest.MonkeyPatch):
    here.apply(NO_NET)
    here.turn()
    during: list[tuple[str, str]] = []
    put = here.guard.put

    def watched(*given: Any) -> int:
        during.append((nets(here), shells(here)))
        done = put(*given)
        during.append((nets(here), shells(here)))
        return done

    monkeypatch.setattr(here.guard, "put", watched)
    here.apply(NO_SHELL)
    here.turn()
    assert during and set(during) == {(STOPPED, PASSES)}
    assert (nets(here), shells(here)) == (PASSES, STOPPED)


def test_who_is_being_judged_by_the_old_set_finds_its_answers(here: Steered):
    here.apply(NO_NET)
    here.turn()
    here.apply(NO_SHELL)
    here.turn()
    here.kernel.set(policy=1)  # as a program has read it a moment ago
    assert nets(here) == STOPPED
    here.kernel.set(policy=2)
    here.turn()  # a second later
    answers = {int.from_bytes(key[:4], "little") for key in here.kernel.map("guard_answers").held}
    nets_of = {int.from_bytes(key[4:8], "big") for key in here.kernel.map("guard_nets").held}
    assert answers == nets_of == {2}, "what was in force before is removed"


class Panic(BaseException):
    """As Cedar's, which is no Exception."""


@pytest.mark.parametrize(
    "fail",
    [
        lambda here, patch: setattr(
            here.kernel.map("guard_answers"), "room", len(here.kernel.map("guard_answers").held) + 3
        ),
        lambda here, patch: setattr(here.kernel.map("guard_nets"), "room", 9),
        lambda here, patch: patch.setattr(Plan, "of_paths", _raiser(Panic("no"))),
        lambda here, patch: patch.setattr(Plan, "of_networks", _raiser(KeyError("x"))),
        lambda here, patch: patch.setattr(guarding, "Plan", _raiser(ValueError("a set"))),
    ],
    ids=["answers", "networks", "panic", "fault", "plan"],
)
def test_what_cannot_be_filled_leaves_what_is(
    here: Steered, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None]
):
    first = here.apply(NO_NET)
    here.turn()
    tables = ("guard_answers", "guard_nets", "guard_ports")
    before = [dict(here.kernel.map(name).held) for name in tables]
    with monkeypatch.context() as patch:
        fail(here, patch)
        second = here.apply(NO_SHELL)
        here.turn()
    stats = here.guarding.stats()
    assert stats["version"] == first.version and stats["generation"] == 1
    assert second.version[:12] in str(stats["problem"]), "it is said for as long as it is so"
    assert [here.kernel.map(name).held for name in tables] == before, "nothing half is left"
    assert (nets(here), shells(here)) == (STOPPED, PASSES)
    for table in here.kernel.tables.values():
        table.room = None
    third = msgspec.structs.replace(ONE, cgroup=103, name="three")
    here.guarding.found([third])
    here.turn()
    assert here.kernel.end(103, "connect", "10.1.2.3", 443) == STOPPED
    here.guarding._again = 0.0  # a minute later
    here.turn()
    assert here.guarding.stats()["version"] == second.version
    assert not here.guarding.stats()["problem"]
    assert (nets(here), shells(here, 103)) == (PASSES, STOPPED)


def _raiser(error: BaseException) -> Callable[..., Any]:
    def raises(*_: object) -> Any:
        raise error

    return raises


def test_kinds_after_a_failure_are_not_mixed_up(here: Steered):
    """A failed set must not take numbers of scopes from the one that is in force."""
    here.apply(BY_NAME)
    here.turn()
    assert (shells(here), shells(here, 102)) == (STOPPED, PASSES)
    table = here.kernel.map("guard_answers")
    table.room = len(table.held) + 1
    here.apply(NO_SHELL)
    here.turn()
    table.room = None
    here.guarding.found([msgspec.structs.replace(ONE, cgroup=103, name="three")])
    here.turn()
    assert [shells(here, cgroup) for cgroup in (101, 102, 103)] == [STOPPED, PASSES, PASSES]


def test_a_container_that_there_is_no_room_for_is_said(here: Steered):
    here.apply(BY_NAME)
    here.turn()
    table = here.kernel.map("guarded")
    table.room = len(table.held)
    here.guarding.found([msgspec.structs.replace(ONE, cgroup=103, name="three")])
    here.turn()
    assert here.guarding.stats()["unguarded"] == 1
    assert any("guarded has no room for more" in said for said in here.said)
    here.guarding.gone([103])
    here.turn()
    assert here.guarding.stats()["unguarded"] == 0


@pytest.mark.parametrize("when", ["before the container", "before the set", "after it"])
def test_names(when: str):
    here = Steered((RESOLVER,))
    if when == "before the container":
        here.apply(BY_NAME)
        named(here, "api.acme.example", "192.0.2.1")
        here.turn()
    here.guarding.found([ONE, TWO])
    if when == "before the set":
        named(here, "api.acme.example", "192.0.2.1")
        here.turn()
    if when != "before the container":
        here.apply(BY_NAME)
        here.turn()
    if when == "after it":
        named(here, "api.acme.example", "192.0.2.1")
    here.turn()
    assert here.kernel.end(101, "connect", "192.0.2.1", 443) == PASSES
    assert here.kernel.end(101, "connect", "192.0.2.2", 443) == STOPPED
    assert here.kernel.end(101, "listen", "192.0.2.1", 443) == PASSES
    named(here, "BAD.acme.example.", "192.0.2.1")
    here.turn()
    assert here.kernel.end(101, "connect", "192.0.2.1", 443) == STOPPED


def test_only_resolvers_that_are_trusted_name_addresses(here: Steered):
    here.apply(BY_NAME)
    named(here, "api.acme.example", "192.0.2.1", server="192.0.2.53")
    named(here, "", "192.0.2.2")
    here.turn()
    assert here.kernel.end(101, "connect", "192.0.2.1", 443) == STOPPED
    assert here.guarding.stats()["names"] == 0


def test_an_address_of_too_many_names_cannot_be_told(here: Steered):
    """Whoever asks for many names of one address hides none, and takes no room from others."""
    here.apply(BY_NAME)
    for number in range(MAX_NAMES_OF * 3):
        named(here, f"n{number}.acme.example", "192.0.2.1")
    here.turn()
    answers = len(here.kernel.map("guard_answers").held)
    assert here.kernel.end(101, "connect", "192.0.2.1", 443) == STOPPED
    for number in range(100):
        named(here, f"m{number}.acme.example", "192.0.2.1")
    here.turn()
    assert len(here.kernel.map("guard_answers").held) == answers


def test_raw_sockets_reach_hosts_that_are_forbidden_by_name(here: Steered):
    here.apply(BY_NAME.split("@id")[2].join(("@id", "")))
    here.turn()
    assert here.kernel.socket(101) == STOPPED


def test_containers_that_are_gone(here: Steered):
    here.apply(BY_NAME)
    named(here, "api.acme.example", "192.0.2.1")
    here.turn()
    here.guarding.gone([101])
    here.turn()
    assert shells(here) == PASSES and len(here.kernel.map("guarded").held) == 1
    assert here.guarding.stats()["names"] == 0
    here.apply(NO_SHELL)
    here.turn()
    assert (shells(here), shells(here, 102)) == (PASSES, STOPPED)


@pytest.mark.parametrize(("timed", "generation"), [(True, 2), (False, 1)])
def test_another_hour(here: Steered, monkeypatch: pytest.MonkeyPatch, timed: bool, generation: int):
    here.apply(NO_SHELL.replace("when {", "when { context.hour < 24 &&") if timed else NO_SHELL)
    here.turn()
    later = SimpleNamespace(tm_hour=(time.localtime().tm_hour + 1) % 24)
    monkeypatch.setattr(guarding.time, "localtime", lambda: later)
    here.turn()
    assert here.guard.generation == generation and shells(here) == STOPPED


def verdict(number: int = 0) -> Stopped:
    act = Act(int(Class.EXEC), "/bin/sh", Actor(ONE))
    return Stopped(number, int(Done.DENIED), "exec", act, "", "", "lsm")


def test_a_server_name_is_told_as_what_it_forbids():
    log = Noted()
    here = Steered((RESOLVER,), lambda: log)
    here.apply(
        """@id("no-evil") forbid (principal, action == Action::"connect", resource is Host)
        when { resource.name like "*.evil.example" };"""
    )
    here.guarding.found([ONE])
    here.turn()
    assert here.kernel.hello(ONE.cgroup, "198.51.100.9", 443, b"a.evil.example.") == STOPPED
    assert here.kernel.hello(ONE.cgroup, "198.51.100.9", 443, b"evil.example") == PASSES
    assert here.kernel.hello(ONE.cgroup, "198.51.100.9", 443, None) == STOPPED
    end = "198.51.100.9:443"
    hello = Act(int(Class.TLS), end, Actor(ONE), names=("a.evil.example.",))
    unread = Act(int(Class.CONNECT), end, Actor(ONE))
    done = int(Done.DROPPED)
    here.guarding.stopped(
        [
            Stopped(1, done, "connect", hello, "", "", "lsm"),
            Stopped(2, done, "connect", unread, "", "", "lsm", unread=True),
        ]
    )
    here.turn()
    named, other = (one for one in log.entries if one.kind != "allows")
    assert (named.resource, named.policies) == ("Host:a.evil.example:443", ("no-evil",))
    assert (other.resource, other.policies) == (end, ()) and "TLS hello" in other.why


def test_names_that_there_is_no_room_for_are_said():
    here = Steered((RESOLVER,))
    wild = " || ".join(f'resource.name like "*{chr(97 + n)}*x*{chr(98 + n)}*"' for n in range(12))
    here.apply(
        f'forbid (principal, action == Action::"connect", resource is Host) when {{ {wild} }};'
    )
    here.guarding.found([ONE])
    here.turn()
    assert here.guard.generation == 1 and not here.guarding.unheld
    assert "TLS clients ask for" in str(here.guarding.stats()["problem"])
    assert here.kernel.hello(ONE.cgroup, "198.51.100.9", 443, None) == PASSES


class Full(Noted):
    """A disk that is full until it is not."""

    full = True

    def note(self, entry: Any) -> None:
        super().note(entry)
        self.waiting = len(self.entries)
        self._check()

    def flush(self) -> None:
        self._check()
        self.waiting = 0

    def _check(self) -> None:
        if self.full:
            raise LogError("disk full")


def test_a_log_that_cannot_be_written_costs_only_what_does_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "MAX_WAITING", 10)
    log = Full()
    here = Steered((RESOLVER,), lambda: log)
    here.guarding.found([ONE])
    here.apply(NO_SHELL)
    here.turn()
    for number in range(25):
        here.guarding.stopped([verdict(number)])
        here.turn()
    assert [one.time for one in log.entries] == list(range(10)), "those that fit are kept"
    assert here.guarding.stats()["verdicts_lost"] == 15
    assert len([one for one in here.said if "disk full" in one]) == 1
    here.apply(NO_NET)
    here.turn()
    assert (nets(here), shells(here)) == (STOPPED, PASSES), "policies do not wait for the log"
    log.full = False
    here.turn()
    here.guarding.stopped([verdict(99)])
    here.turn()
    assert log.entries[-1].time == 99 and here.guarding.stats()["verdicts_lost"] == 15


def test_a_log_that_cannot_be_opened_is_tried_again():
    tries = [LogError("no such disk"), LogError("no such disk"), Noted()]

    def opened() -> Any:
        found = tries.pop(0)
        if isinstance(found, LogError):
            raise found
        return found

    here = Steered((RESOLVER,), opened)
    here.guarding.found([ONE])
    here.apply(NO_SHELL)
    here.turn()
    assert shells(here) == STOPPED and any("no such disk" in one for one in here.said)
    here.guarding.stopped([verdict()])
    here.turn()
    assert not tries and here.guarding.stats()["verdicts_lost"] == 0


def test_too_many_verdicts_at_once_are_counted(here: Steered, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "MAX_WAITING", 3)
    here.apply(NO_SHELL)
    here.turn()
    here.guarding.stopped(map(verdict, range(5)))
    assert here.guarding.stats()["verdicts_lost"] == 2


def test_a_decision_is_told_of_the_set_that_made_it(here: Steered, monkeypatch: pytest.MonkeyPatch):
    log = Noted()
    here = Steered((RESOLVER,), lambda: log)
    here.guarding.found([ONE])
    first = here.apply(NO_SHELL)
    here.turn()
    monkeypatch.setattr(Plan, "of_paths", _raiser(GuardError("full")))
    here.apply(NO_SHELL, NO_NET)
    here.turn()
    here.guarding.stopped([verdict()])
    here.turn()
    assert log.entries[0].version == first.version


def test_who_keeps_policies_is_watched(here: Steered, monkeypatch: pytest.MonkeyPatch):
    """The agent says that it is there only while its policies are kept: see guarding.py."""
    assert here.guarding.thread == "not begun"
    here.apply(NO_SHELL, NO_NET.replace("forbid", '@fail("open") forbid'))
    here.turn()
    said: list[int] = []
    monkeypatch.setattr(here.guard, "alive", lambda: said.append(1))
    held, entered = threading.Event(), threading.Event()
    here.guarding.start()

    def hang() -> None:
        entered.set()
        held.wait(60)

    here.guarding._work.put(hang)
    assert entered.wait(10)
    here.guarding.tick()
    assert said == [1] and here.guarding.stats()["thread"] == "alive"
    monkeypatch.setattr(guarding, "_HUNG", -1.0)
    here.guarding.tick()
    here.guarding.tick()
    assert said == [1] and here.guarding.stats()["thread"] == "hangs"
    assert len([one for one in here.said if "hangs" in one]) == 1
    assert (nets(here), shells(here)) == (STOPPED, STOPPED), (
        "for as long as it was said to be there"
    )
    here.kernel.set(policy_alive=0)
    assert (nets(here), shells(here)) == (PASSES, STOPPED), "then what fails closed"
    held.set()
    monkeypatch.undo()
    here.guarding.close()
    assert here.guarding.thread == "ended" and here.guard.generation == 0


BY = (7, 6)
OTHER_UPPER = (
    '@id("other") forbid (principal, action == Action::"open-write", resource)'
    " when { resource has upper && resource.upper };"
)


class Asked:
    """As opens.py, where it holds opens and execs for people."""

    def __init__(self, *actions: str) -> None:
        self.actions = actions or ("open-read",)
        self.sets: list[str] = []

    @property
    def number(self) -> int:
        return len(self.sets)

    def challenges(self, engine: Engine) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(engine.policies, self.actions)

    def use(
        self, engine: Engine, unheld: Mapping[str, str], tools: bool, apart: Any = ()
    ) -> dict[str, str]:
        if self.sets[-1:] != [engine.version]:
            self.sets.append(engine.version)
        return dict(unheld)

    def numbered(self, tool: Tool) -> None: ...


def test_a_challenge_that_somebody_else_holds():
    """Whoever opens the file is let pass, to be held; nothing else is, nor anybody once the agent
    is gone."""
    text = (
        '@id("ask") @effect("challenge") {} forbid (principal, action in [Action::"open-read",'
        ' Action::"open-write"], resource is Path) when {{ resource.path == "/x" }};'
    )
    for fail, renamed, orphaned in (("closed", STOPPED, STOPPED), ("open", PASSES, PASSES)):
        here = Steered(opens=Asked())
        here.apply(text.format(f'@fail("{fail}")'))
        here.guarding.found([ONE])
        here.turn()
        ask = partial(here.kernel.path, ONE.cgroup)
        assert (
            ask("open-read", b"/x", opened=True) == renamed
        )  # by whom it is held is not there yet
        here.guarding.held({ONE.cgroup: (2, 2)}, BY)  # another set
        assert ask("open-read", b"/x", opened=True) == renamed
        here.guarding.held({ONE.cgroup: (0, 1)}, BY)  # execs alone
        assert ask("open-read", b"/x", opened=True) == renamed
        here.guarding.held({ONE.cgroup: (1, 0)}, BY)
        assert ask("open-read", b"/x", opened=True) == PASSES
        assert ask("open-read", b"/x") == renamed
        here.kernel.settings["policy_keepers"] = 0  # as the kernel does, when one of them ends
        here.guarding.held({ONE.cgroup: (1, 0)}, BY)  # what was known before says nothing
        assert ask("open-read", b"/x", opened=True) == renamed
        here.guarding.held({ONE.cgroup: (1, 0)}, (8, 6))
        # Who holds it knows the first name of it alone, and none that is too long.
        assert ask("open-read", b"/x", second=b"/x", opened=True) == PASSES
        assert ask("open-read", b"/y", second=b"/x", opened=True) == renamed
        assert ask("open-read", b"/y", unknown=True, opened=True) == renamed
        assert ask("open-read", b"/y") == PASSES
        # Nobody holds this action.
        assert ask("open-write", b"/x", opened=True) == (STOPPED if fail == "closed" else TOLD)
        here.kernel.set(policy_alive=0)
        assert ask("open-read", b"/x", opened=True) == orphaned


def test_who_holds_challenges_of_the_set_before_holds_none_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
):
    """Told by the agent's loop in the moment between the next generation and its set."""
    text = (
        '@id("ask") @effect("challenge") forbid (principal, action == Action::"open-read",'
        ' resource is Path) when {{ resource.path == "{}" }};'
    )
    here = Steered(opens=Asked())
    here.apply(text.format("/x"))
    here.guarding.found([ONE])
    here.turn()
    here.guarding.held({ONE.cgroup: (1, 0)}, BY)
    commit = here.guard.commit

    def then(generation: int, number: int) -> None:
        commit(generation, number)
        here.guarding.held({ONE.cgroup: (1, 0)}, BY)

    monkeypatch.setattr(here.guard, "commit", then)
    for at, path in enumerate(("/y", "/x"), 2):  # and back
        here.apply(text.format(path))
        here.turn()
        asks = partial(here.kernel.path, ONE.cgroup, "open-read", path.encode(), opened=True)
        assert asks() == STOPPED
        here.guarding.held({ONE.cgroup: (at, 0)}, BY)
        assert asks() == PASSES


def test_answers_that_are_made_anew_are_of_the_set_that_is_held_already(
    monkeypatch: pytest.MonkeyPatch,
):
    """At no moment is a challenge a block: neither before the agent's loop says anything."""
    here = Steered(opens=Asked())
    here.apply(
        '@id("ask") @effect("challenge") forbid (principal, action == Action::"open-read",'
        ' resource is Path) when { resource.path == "/x" };'
    )
    here.guarding.found([ONE])
    here.turn()
    here.guarding.held({ONE.cgroup: (1, 0)}, BY)
    asks = partial(here.kernel.path, ONE.cgroup, "open-read", b"/x", opened=True)
    assert asks() == PASSES
    engine = here.guarding._in_force.engine  # type: ignore[union-attr]
    for generation in (2, 3):
        here.guarding._fill(engine)
        assert here.guard.generation == generation and asks() == PASSES


def test_a_challenged_program_is_held_and_what_maps_it_is_not():
    text = '@id("ask") @effect("challenge") forbid (principal, action == Action::"exec", resource)'
    for when, mapped, upper in (
        ('resource.path == "/x"', STOPPED, STOPPED),
        ("resource has upper && resource.upper", PASSES, STOPPED),
        # Whatever is run: libraries are mapped by what was asked about.
        ('context.labels.contains("secret")', PASSES, PASSES),
    ):
        here = Steered(opens=Asked("exec"))
        here.apply(f"{text} when {{ {when} }};", *[OTHER_UPPER] * (upper == PASSES))
        here.guarding.found([ONE])
        here.turn()
        ask = partial(here.kernel.path, ONE.cgroup, "exec", b"/x", labels=bits_of(["secret"]))
        assert ask(upper=True, opened=True) == STOPPED
        here.guarding.held({ONE.cgroup: (1, 0)}, BY)
        assert ask(upper=True, opened=True) == STOPPED
        here.guarding.held({ONE.cgroup: (0, 1)}, BY)
        assert ask(upper=True, opened=True) == PASSES
        assert (ask(mapped=True), ask(mapped=True, upper=True)) == (mapped, upper)
        here.kernel.set(policy_alive=0)
        assert ask(upper=True, opened=True) == STOPPED


def test_no_room_for_who_is_held_elsewhere_is_said(here: Steered, monkeypatch: pytest.MonkeyPatch):
    """It must not keep the agent's loop from what comes after it."""
    here.apply(NO_SHELL)
    here.turn()

    def full(*_: object) -> None:
        raise GuardError("guard_asked has no room for more")

    monkeypatch.setattr(here.guard, "_put", full)
    here.guarding.held({ONE.cgroup: (1, 1)}, BY)
    assert "no room for more" in here.said[-1]


NEWS = """
@id("new") forbid (principal, action == Action::"connect", resource is Address)
when { context has first_seen && context.first_seen };
@id("net") forbid (principal, action == Action::"connect", resource is Address)
when { resource has port && resource.port == 81 };
"""


def contacted(*names: str) -> Baselines:
    found = Baselines()
    rows = [EntryRow("i", "connect", name, 1, 1, 1, ()) for name in names]
    found.load(ProfileRow("i", "i", 1, 0, None, (), 0), rows)
    return found


def test_what_a_baseline_has_goes_with_the_last_container_of_its_image():
    made = Steered((RESOLVER,), baselines=contacted("10.1.2.3:443", "a.example:443"))
    one, two = (msgspec.structs.replace(of, image="i") for of in (ONE, TWO))
    made.guarding.found([one, two])
    made.apply(NEWS)
    named(made, "a.example", "10.1.2.4")
    made.turn()
    assert len(made.kernel.map("guard_seen").held) == 2
    for address, said in (("10.1.2.3", PASSES), ("10.1.2.4", PASSES), ("10.1.2.5", STOPPED)):
        assert made.kernel.end(102, "connect", address, 443) == said
    made.guarding.gone([101])
    made.turn()
    assert made.kernel.end(102, "connect", "10.1.2.3", 443) == PASSES
    made.guarding.gone([102])
    made.turn()
    assert not made.kernel.map("guard_seen").held and not made.guarding._images
    made.guarding.found([two])
    made.turn()
    assert made.kernel.end(102, "connect", "10.1.2.3", 443) == PASSES
    assert made.kernel.end(102, "connect", "10.1.2.4", 443) == STOPPED  # nobody was told its name


def test_without_room_for_all_that_a_baseline_has_the_set_holds(monkeypatch: pytest.MonkeyPatch):
    made = Steered((RESOLVER,), baselines=contacted(*(f"10.1.2.{n}:443" for n in range(5))))
    made.kernel.map("guard_seen").room = 3
    made.guarding.found([msgspec.structs.replace(ONE, image="i")])
    made.apply(NEWS)
    made.turn()
    assert made.guard.generation == 1 and len(made.kernel.map("guard_seen").held) == 3
    assert [text for text in made.said if "no room for all" in text]
    assert made.guarding.stats()["contacts_lost"] == 2
    assert made.kernel.end(101, "connect", "10.1.2.3", 81) == STOPPED
    verdicts = [made.kernel.end(101, "connect", f"10.1.2.{n}", 443) for n in range(5)]
    assert sorted(verdicts) == [PASSES] * 3 + [STOPPED] * 2
    made.kernel.map("guard_seen").room = None
    monkeypatch.setattr(guarding, "_AGAIN", 0.0)
    (image,) = made.guarding._images.values()
    image.due = 0.0
    made.guarding._follow_baselines()
    verdicts = [made.kernel.end(101, "connect", f"10.1.2.{n}", 443) for n in range(5)]
    assert verdicts == [PASSES] * 5 and made.guarding.stats()["contacts_lost"] == 0
