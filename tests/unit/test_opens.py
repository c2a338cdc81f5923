"""Policies about opens, asked by the agent's doorkeeper: what it is told, and what becomes of what
it says. The doorkeeper's end is a list here; a real one is in tests/live."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hullwatch.context.workload import Workload
from hullwatch.daemon import Daemon
from hullwatch.decide.elsewhere import Elsewhere
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry
from hullwatch.decide.plan import Plan
from hullwatch.decide.question import Effect
from hullwatch.detect.baseline.known import Known
from hullwatch.opens import Held, Keepers, Opens, Stop, is_told
from hullwatch.permits import carried
from hullwatch.permits.carried import Carried, Handed, Numbered
from hullwatch.permits.messages import ACTIONS, Counts, Problem, Told
from hullwatch.sensor.events import POLICY_ACTIONS
from hullwatch.sensor.told import Told as ToldEvent
from hullwatch.sensor.wire import (
    ACTING,
    CALLS,
    CALLS_AT_ONCE,
    GUARD_CARRIED,
    LABELLED,
    MAPPED,
    OF_THREAD,
    Action,
    Done,
)

ONE = Workload(
    cgroup=101, cgroup_path="/1", state="resolved", container_id="1" * 64, name="one"
)  # fmt: skip
FILES = '@id("files") forbid (principal, action == Action::"open-read", resource);'
NET = '@id("net") forbid (principal, action == Action::"connect", resource);'
OFFSET = 1_000


class Keeper:
    pid = 0

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.says: list[Any] = []
        self.alive = True
        self.full = False

    def policies(self, *given: Any) -> None:
        self.asked.append(("policies", *given))

    def watch(self, *given: Any) -> None:
        self.asked.append(("watch", *given))

    def normal(self, *given: Any) -> bool:
        if not self.full:
            self.asked.append(("normal", *given))
        return not self.full

    def forget(self, *given: Any) -> None:
        self.asked.append(("forget", *given))

    def release(self, *given: Any) -> None:
        self.asked.append(("release", *given))

    def take(self) -> Iterator[Any]:
        said, self.says = self.says, []
        return iter(said)


@pytest.fixture
def here() -> Iterator[Any]:
    keeper, numbered = Keeper(), Numbered()
    events: list[ToldEvent] = []
    stops: list[Stop] = []
    said: list[str] = []
    opens = Opens(
        keeper,  # type: ignore[arg-type]
        "",
        numbered,
        lambda version: ((version, "set.cedar"),),
        events.append,
        stops.append,
        lambda kind, text: said.append(text),
    )
    yield SimpleNamespace(keeper=keeper, opens=opens, events=events, stops=stops, said=said)
    numbered.close()


def engine(*texts: str) -> Engine:
    return Engine.of([(text, f"{at}.cedar") for at, text in enumerate(texts)])


def test_it_sleeps_until_a_set_speaks_of_opens(here):
    net, files = engine(NET), engine(NET, FILES)
    here.opens.found([ONE])
    assert here.opens.use(net, {}, False) == {}
    here.opens.turn(OFFSET)
    assert here.keeper.asked == [] and here.opens.stats()["state"] == "asleep"
    here.opens.use(files, {}, False)
    here.opens.turn(OFFSET)
    facts = {"container": "one"}
    assert here.keeper.asked == [
        ("policies", ((files.version, "set.cedar"),), ACTIONS, {"files": ("open-read",)}, 1),
        ("watch", ONE.container_id, "one", "/1", facts, ""),
    ]
    here.keeper.asked.clear()
    here.opens.found([ONE])  # nothing new
    here.opens.use(files, {}, False)
    here.opens.turn(OFFSET)
    assert here.keeper.asked == [] and here.opens.number == 1
    here.opens.use(net, {}, False)  # which it has to be told now, to let go
    here.opens.turn(OFFSET)
    assert here.keeper.asked == [("policies", ((net.version, "set.cedar"),), ACTIONS, {}, 2)]
    here.opens.use(files, {}, False)
    assert here.opens.number == 3, "what it says of the first counts no more"


def test_a_set_that_says_nothing_of_opens_ends_one_that_was_not_told_yet(here):
    net, files = engine(NET), engine(NET, FILES)
    here.opens.use(files, {}, False)
    here.opens.use(net, {}, False)
    here.opens.turn(OFFSET)
    assert [one[1][0][0] for one in here.keeper.asked] == [files.version, net.version]


def test_a_container_that_was_started_anew_is_watched_anew(here):
    here.opens.use(engine(FILES), {}, False)
    here.opens.turn(OFFSET)
    here.keeper.asked.clear()
    here.opens.found([ONE])
    here.opens.gone([ONE.cgroup])
    here.opens.found(
        [
            Workload(
                cgroup=102, cgroup_path="/1", state="resolved", container_id="1" * 64, name="one"
            )
        ]
    )
    assert [one[0] for one in here.keeper.asked] == ["watch", "release", "watch"]


@pytest.mark.parametrize(
    ("text", "elsewhere", "tools", "why"),
    [
        ("resource has plugin && resource.plugin == ?", "", False, "plugin: not told of opens"),
        ("context has program && context.program == ?", "no programs", False, ""),
        ("context has command && context.command == ?", "no", False, "command: not told of opens"),
        ("context has tool_call && context.tool_call == ?", "", True, ""),
        ("context has tool_call && context.tool_call == ?", "", False, "tool_call: not told of o"),
    ],
)
def test_what_an_open_does_not_have_is_said(here, text, elsewhere, tools, why):
    made = engine(FILES.removesuffix(";") + f" when {{ {text.replace('?', chr(34) * 2)} }};")
    found = here.opens.use(made, {"files": elsewhere} if elsewhere else {}, tools)
    assert found.get("files", "").startswith(why) and bool(found) == bool(why)


def test_of_a_policy_about_more_the_kernels_part_is_said():
    both = FILES.replace('action == Action::"open-read"', "action")
    said: list[str] = []
    numbered = Numbered()
    given = (numbered, lambda version: (), said.append, said.append, lambda kind, text: None)
    asleep = Opens(Keeper(), "", *given)
    off = Opens(None, "--no-files", *given)
    numbered.close()
    both = both.replace(" action,", ' action in [Action::"open-read", Action::"connect"],')
    made = engine(both, NET)
    assert asleep.use(made, {"files": "why", "net": "not"}, True) == {"files": "why", "net": "not"}
    assert off.use(made, {}, True) == {"files": "its opens: --no-files"}
    assert off.use(engine(FILES), {}, True) == {"files": "opens are not asked about: --no-files"}
    assert off.stats() == {"state": "off", "why": "--no-files", "kernel": []}


def permit(ident: str, action: str, when: str = "") -> str:
    condition = f" when {{ {when} }}" if when else ""
    return f'@id("{ident}") permit (principal, action == Action::"{action}", resource){condition};'


BY_PROGRAM = 'context has program && context.program == "/bin/x"'
BY_COMMAND = 'context has command && context.command == "x"'
KERNEL = ("exec", "open-read", "open-write", "connect")
PROGRAMS = FILES.replace("files", "programs").replace("open-read", "exec")
ASK = '@effect("challenge") ' + PROGRAMS


@pytest.mark.parametrize(
    ("texts", "unheld", "left", "why"),
    [
        # What the kernel holds it is not asked about again; what it does not hold is here.
        ([FILES], {}, {}, {}),
        ([FILES, NET], {"files": "why", "net": "no"}, {"files": ("open-read",)}, {"net": "no"}),
        (
            [FILES.replace('action == Action::"open-read"', "action")],
            {},
            {"files": ("use-secret", "load-plugin")},
            {},
        ),
        # One that nobody can ask wakes nobody, and is said.
        (
            [FILES.replace(";", f" when {{ {BY_COMMAND} }};")],
            {"files": "no commands"},
            {},
            {"files": "command: not told of opens"},
        ),
        # A list is whole, where a permit of it is here.
        (
            [permit("a", "open-read"), permit("b", "open-read", BY_PROGRAM), permit("c", "exec")],
            {"b": "no programs"},
            {"a": ("open-read",), "b": ("open-read",)},
            {},
        ),
        # Nobody's, where one of them can be asked nowhere.
        (
            [permit("a", "open-read"), permit("b", "open-read", BY_COMMAND)],
            {"b": "no commands"},
            {},
            {"b": "command: not told of opens"},
        ),
        ([permit("a", "open-read")], {}, {}, {}),
        # The same of execs; a person is waited for here.
        ([PROGRAMS], {}, {}, {}),
        ([PROGRAMS], {"programs": "no programs"}, {"programs": ("exec",)}, {}),
        ([ASK], {}, {"programs": ("exec",)}, {}),
        ([ASK.replace("@eff", '@mode("observe") @eff')], {}, {}, {}),
        (
            [ASK.replace(";", f" when {{ {BY_COMMAND} }};")],
            {"programs": "no commands"},
            {},
            {"programs": "command: not told of execs"},
        ),
        (
            [permit("a", "exec"), permit("b", "exec", BY_PROGRAM), permit("c", "open-read")],
            {"b": "no programs"},
            {"a": ("exec",), "b": ("exec",)},
            {},
        ),
        (
            [permit("a", "load-plugin"), permit("b", "load-plugin", "resource has plugin")],
            {},
            {"a": ("load-plugin",), "b": ("load-plugin",)},
            {},
        ),
    ],
)
def test_where_the_kernel_holds_opens_only_the_rest_is_asked(texts, unheld, left, why):
    numbered, keeper = Numbered(), Keeper()
    numbered.close()
    given = (numbered, lambda version: (), print, print, lambda kind, text: None, KERNEL)
    made, beside = engine(*texts), Opens(keeper, "", *given)
    assert beside.use(made, unheld, False) == why
    beside.turn(OFFSET)
    assert keeper.asked == ([("policies", (), ACTIONS, left, 1)] if left else [])
    assert beside.stats()["kernel"] == ["exec", "open-read", "open-write"]
    # Without it, what the kernel does not hold is said with its reason.
    said = Opens(None, "--no-files", *given).use(made, unheld, False)
    assert set(said) == set(unheld) | {
        ident for ident, actions in left.items() if not {*actions} <= {*KERNEL}
    }
    assert all("--no-files" in text for ident, text in said.items() if ident in left)


def test_without_bpf_lsm_the_kernel_holds_of_execs_what_it_can():
    numbered, keeper = Numbered(), Keeper()
    numbered.close()
    given = (numbered, lambda version: (), print, print, lambda kind, text: None, ("exec",))
    made = engine(ASK, FILES, PROGRAMS.replace("programs", "all"))
    here = Opens(keeper, "", *given)
    assert here.challenges(made) == {"programs": ("exec",)}
    assert here.use(made, {}, False) == {}
    here.turn(OFFSET)
    only = {"programs": ("exec",), "files": ("open-read",)}
    assert keeper.asked == [("policies", (), ACTIONS, only, 1)]
    off = Opens(None, "--no-files", *given)
    assert off.challenges(made) == {}
    assert off.use(made, {"all": "no programs"}, False) == {
        "all": "no programs; execs are not asked about: --no-files",
        "files": "opens are not asked about: --no-files",
    }


def test_who_is_held_is_told_of_opens_and_execs_apart():
    numbered, keeper = Numbered(), Keeper()
    numbered.close()
    told: list[tuple[Held, Keepers]] = []
    given = (numbered, lambda version: (), print, print, lambda kind, text: None, KERNEL)
    opens = Opens(keeper, "", *given, lambda held, by: told.append((held, by)))
    some = {"1" * 64: "open", "2" * 64: "exec", "3" * 64: "open, exec", "4" * 64: "nothing"}
    some |= {"5" * 64: "open, exec"}
    opens.found(
        msgspec.structs.replace(ONE, cgroup=at, container_id=ident)
        for at, ident in enumerate(some, 101)
    )
    keeper.says = [Counts({}, {"5" * 64: ("/net",)}, some, worker=7, number=3)]
    opens.turn(OFFSET)
    assert told == [({101: (3, 0), 102: (0, 3), 103: (3, 3)}, (7, keeper.pid))]
    keeper.alive = False
    opens.turn(OFFSET)
    assert told[1:] == [({}, (0, 0))]


BLOCK, ALLOW, CHALLENGE = Effect.BLOCK, Effect.ALLOW, Effect.CHALLENGE


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_told_as_itself(here, action):
    entry = Entry(
        time=5_000, action=action, resource="Secret:/a", effect=BLOCK, wanted=BLOCK
    )  # fmt: skip
    here.opens.found([ONE])
    here.keeper.says = [Told(entry, ONE.container_id or "")]
    here.opens.turn(OFFSET)
    [event] = here.events
    assert POLICY_ACTIONS[event.flags & 0xFFFF] == action and is_told(event.num, event.flags)
    assert here.stops == [Stop(ONE, action, "/a", ())]


@pytest.mark.parametrize(
    ("kind", "effect", "wanted", "done"),
    [
        ("verdict", BLOCK, BLOCK, Done.DENIED),
        ("verdict", ALLOW, BLOCK, Done.TOLD),
        ("verdict", ALLOW, ALLOW, None),
        ("held", CHALLENGE, CHALLENGE, None),
        ("denied", BLOCK, CHALLENGE, Done.DENIED),
        ("expired", BLOCK, CHALLENGE, Done.DENIED),
        ("approved", ALLOW, CHALLENGE, None),
    ],
)
def test_what_was_stopped_becomes_an_event(here, kind, effect, wanted, done):
    entry = Entry(
        time=5_000,
        kind=kind,
        action="open-write",
        resource="Path:/a:b",
        effect=effect,
        wanted=wanted,
        policies=("files",),
    )
    here.opens.found([ONE])
    here.keeper.says = [Told(entry, ONE.container_id or "", 77, 3, 9), Told(entry, "another")]
    here.opens.turn(OFFSET)
    if done is None:
        assert not here.events and not here.stops
        return
    [event] = here.events
    assert (event.ts, event.cgroup, event.tid, event.span, event.labels) == (4_000, 101, 77, 9, 3)
    assert (event.text, event.flags) == ("/a:b", int(Action.OPEN_WRITE) | done << 16)
    assert event.ret == (-errno.EPERM if done == Done.DENIED else 0)
    assert is_told(event.num, event.flags)
    assert not is_told(0, event.flags) and not is_told(MAPPED, event.flags)
    assert not is_told(event.num, int(Action.PRIVILEGE))
    stops = [Stop(ONE, "open-write", "/a:b", ("files",))]
    assert here.stops == (stops if done == Done.DENIED else [])


def test_counts_go_on_over_a_new_start_and_problems_are_said_once(here):
    for worker, blocked in ((7, 2), (7, 3), (8, 1)):
        here.keeper.says += [
            Counts({"blocked": blocked}, worker=worker),
            Problem("a gap", gap=True),
        ]
    here.opens.turn(OFFSET)
    assert (here.opens.stats()["blocked"], here.opens.restarts) == (4, 1)
    assert here.said == ["a gap"]
    here.keeper.alive = False
    here.opens.turn(OFFSET)
    assert "start the agent anew" in here.said[-1] and here.opens.stats()["state"] == "ended"


# -- labels and calls -------------------------------------------------------------------------


def test_layouts_are_those_of_the_wire():
    assert carried.SPREAD.size == GUARD_CARRIED.itemsize
    assert carried.LABELLED.size == LABELLED.itemsize and carried.ACTING.size == ACTING.itemsize
    assert carried.CALLS.size == CALLS.itemsize and LABELLED.fields["labels"][1] == 16
    assert (carried.AT_ONCE, carried.OF_THREAD) == (CALLS_AT_ONCE, OF_THREAD)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """maps: (descriptor, key) -> value, in the kernel's place."""
    numbered = Numbered()
    maps: dict[tuple[int, bytes], bytes] = {}

    def lookup(fd: int, key: bytes, value: struct.Struct) -> tuple[Any, ...]:
        found = maps.get((fd, key))
        return value.unpack(found) if found else ()

    monkeypatch.setattr(carried, "_lookup", lookup)
    handed = Handed(1, 5, 2, 3, 4, numbered.fd, ("secret", "private"))
    yield SimpleNamespace(carried=Carried(handed), maps=maps, numbered=numbered)
    numbered.close()


def test_what_all_of_a_container_carries_its_threads_carry(known, tmp_path, monkeypatch):
    me = os.getpid()
    (tmp_path / "box/below").mkdir(parents=True)
    monkeypatch.setattr(known.carried, "_root", str(tmp_path))
    monkeypatch.setattr(carried, "cgroup_path", lambda text: "/box/below" if text else "")
    here = os.stat(tmp_path / "box").st_ino
    known.maps[1, struct.pack("<I", me)] = carried.LABELLED.pack(0, 0, 2, 0)
    known.maps[5, struct.pack("<Q", here)] = carried.SPREAD.pack(3, 0, 0, 0)  # some of it do
    assert known.carried.facts["labels"](me) == ("private",)
    known.maps[5, struct.pack("<Q", here)] = carried.SPREAD.pack(3, 1, 9000, 0)
    assert known.carried.facts["labels"](me) == ("secret", "private")
    assert known.carried.facts["labels"](0) == ()  # it has ended


def test_labels_and_the_call_of_a_thread_are_read(known):
    me = os.getpid()
    facts = known.carried.facts
    assert facts["labels"](me) == () and facts["tool_call"](me) is None
    known.maps[1, struct.pack("<I", me)] = carried.LABELLED.pack(0, 0, 2, 0)
    assert facts["labels"](me) == ("private",)
    known.maps[2, struct.pack("<I", me)] = carried.ACTING.pack(50, 0)
    known.maps[4, struct.pack("<Q", 50)] = carried.TOOL.pack(2)
    assert facts["tool_call"](me) is None  # nobody has said yet which that is
    known.numbered.add("list", "files")
    known.numbered.add("report", "")
    assert (facts["tool_call"](me), facts["server"](me)) == ("report", None)
    # Of several at once nobody can tell.
    known.maps[3, struct.pack("<Q", OF_THREAD | me)] = carried.CALLS.pack(50, 51, *[0] * 65)
    assert facts["tool_call"](me) is None and known.carried.call(me, me) == 0


def test_a_servers_call_comes_before_the_one_it_was_started_in(known):
    me = os.getpid()
    known.maps[2, struct.pack("<I", me)] = carried.ACTING.pack(50, 6)
    assert known.carried.call(me, me) == 50
    known.maps[3, struct.pack("<Q", 6)] = carried.CALLS.pack(51, *[0] * 66)
    assert known.carried.call(me, me) == 51


NEW = """
@id("new") forbid (principal, action == Action::"open-read", resource)
when { context has first_seen && context.first_seen };
@id("locked") forbid (principal, action in [Action::"exec", Action::"connect"], resource)
when { context has baseline && context.baseline == "locked" };
"""


def test_what_baselines_have_is_told_before_what_is_judged_by_it(here):
    known = {"one": Known("sha256:1", 5, "learning", 7, {"read": frozenset(("/etc/a",))})}

    def normal(workload: Workload, edition: int = -1) -> Known | None:
        found = known[str(workload.name)]
        return None if found.edition == edition else found

    here.opens._normal = normal
    here.opens.found([ONE])
    here.opens.use(engine(FILES), {}, False)
    here.opens.turn(OFFSET)
    assert here.keeper.asked[-1] == (
        *("watch", ONE.container_id, "one", "/1", {"container": "one"}, ""),
    )  # no policy reads any of it
    here.keeper.asked.clear()
    here.opens.use(engine(NEW), {"locked": "kernel"}, False)
    here.opens.turn(OFFSET)
    told, policies, watched = here.keeper.asked
    assert told == ("normal", known["one"]) and policies[0] == "policies"
    facts = {"container": "one", "baseline": "learning"}
    assert watched == ("watch", ONE.container_id, "one", "/1", facts, "sha256:1")
    # More was learnt: the doorkeeper hears of that alone; once it is locked, what it is, too.
    for edition, state in ((6, "learning"), (7, "locked")):
        known["one"] = known["one"]._replace(edition=edition, state=state)
        here.keeper.asked.clear()
        for _ in range(3):
            here.opens._due = 0.0
            here.opens.turn(OFFSET)
        kinds = [one[0] for one in here.keeper.asked]
        assert kinds == (["normal"] if state == "learning" else ["normal", "watch"])
    assert here.keeper.asked[1][4] == {"container": "one", "baseline": "locked"}
    # What does not get there is told again.
    known["one"] = known["one"]._replace(edition=8)
    for here.keeper.full in (True, False):
        here.keeper.asked.clear()
        here.opens._due = 0.0
        here.opens.turn(OFFSET)
    assert [one[0] for one in here.keeper.asked] == ["normal"]
    assert any("what baselines have" in text for text in here.said)
    # Without a container nothing is looked at, nor kept.
    here.keeper.asked.clear()
    here.opens.gone([ONE.cgroup])
    known.clear()
    here.opens._due = 0.0
    here.opens.turn(OFFSET)
    assert here.keeper.asked == [("forget", "sha256:1")]


def test_of_what_is_held_in_parts_only_what_is_nowhere_is_said():
    """The kernel's part of it is connect; exec is asked about here."""
    text = """@id("p") forbid (principal, action in [Action::"exec", Action::"connect"{}], resource)
    when {{ context has first_seen && context.first_seen }};"""
    for more, said in (("", {}), (', Action::"listen"', {"p": "of listen"})):
        made = engine(text.format(more))
        plan = Plan(made)
        assert plan.unheld and plan.apart["p"] == {"exec", *(("listen",) if more else ())}
        opens = Opens(
            Keeper(),
            "",
            Numbered(),
            lambda version: (),
            lambda told: None,
            lambda stop: None,
            lambda kind, text: None,
            ("exec",),
        )
        found = opens.use(made, plan.unheld, plan.calls, plan.apart)
        assert found.keys() == said.keys()
        assert all("listen" in why for why in found.values())
        assert opens._wanted[-1].only == {"p": ("exec",)}


@pytest.mark.parametrize("state", ["", "off", "asleep", "guarding failed"])
def test_where_no_doorkeeper_answers_the_agent_lets_go_of_the_links(state: str):
    """ "": policies cannot be kept at all."""
    page = socket.create_server(("127.0.0.1", 0))
    told = Elsewhere(hook="", base="", name="x", listening=os.dup(page.fileno()))
    now, said = [state], list[str]()
    opens = SimpleNamespace(stats=lambda: {"state": now[-1]}, close=lambda: now.append("ended"))
    failed = state in ("", "guarding failed")
    agent = SimpleNamespace(
        opens=opens if state else None,
        guarding=None if failed else opens,
        _say=lambda kind, text: said.append(text),
    )
    Daemon._see_who_answers(agent, told)  # type: ignore[arg-type]
    mine = state in ("", "off")  # the doorkeeper has it, where there was one
    with pytest.raises(OSError) if mine else contextlib.nullcontext():
        os.close(told.listening)
    assert bool(said) is (state != "asleep")
    assert (now[-1] == "ended") is (state == "guarding failed")
    page.close()
