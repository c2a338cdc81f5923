"""What policies are told of baselines: what is new, whatever it is asked of, and what is not taken
for done as policy may have stopped it."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from hullwatch.cli import main
from hullwatch.cli.errors import ExitCode
from hullwatch.cli.normal import Normal as OfStore
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.known import NOTHING, Contacts, Known, has, no_baseline
from hullwatch.detect.baseline.values import EntryRow
from hullwatch.detect.scene import WALL
from hullwatch.permits.asked import KINDS, Asked, questions_of
from hullwatch.permits.messages import ACTIONS, Normal
from hullwatch.sensor.wire import Mark
from hullwatch.store import baselines as stored
from hullwatch.store.state import State
from support.baselines import DIGEST, SECOND, Town

BOX = Workload(
    cgroup=1, cgroup_path="/1", state="resolved", container_id="1" * 64, image_digest=DIGEST
)
LATER = WALL + 700 * SECOND


def known(baselines: Baselines) -> Known:
    found = baselines.known(BOX)
    assert found is not None
    return found


def test_a_name_its_group_and_all():
    names = frozenset(("/bin/a", "/lib/*", "/proc/{n}/stat"))
    for name, held in (("/bin/a", True), ("/bin/b", False), ("/lib/x", True), ("/lib/x/y", False)):
        assert has(names, (), "read", name) is held
    assert has(names, (("read", "/opt/**"),), "read", "/opt/a/b")
    assert not has(names, (("exec", "/opt/**"),), "read", "/opt/a/b")
    assert has(frozenset(("**",)), (), "read", "/anything")


def test_destinations_by_name_and_by_address():
    said = ("api.example:443", "*.acme.example:80", "{name}:22", "10.0.0.1:53", "[::1]:80")
    made = Contacts(
        Known(
            "i", 1, "locked", 0, {"connect": frozenset((*said, "{ip}:123", "unix:/run/x:1"))},
            frozenset((("connect", "new.example:443"), ("exec", "/bin/a"))),
        )
    )  # fmt: skip
    assert made.of_name("api.example") == {443} == made.of_name("new.example")
    assert made.of_name("x.acme.example") == {80} and made.of_name("host") == {22}
    assert made.of_name("other.example") == frozenset() and made.of_name("10.0.0.2") == {123}
    ends = {(str(address), port) for address, port in made.by_address()}
    assert ends == {("10.0.0.1", 53), ("::1", 80)}
    assert (made.of_any_address(), made.every) == ({123}, False)
    assert Contacts(Known("i", 1, "locked", 0, {"connect": frozenset(("**",))})).every


def test_what_is_asked_again_is_told_where_it_is_another():
    town = Town()
    assert town.baselines.known(BOX) is NOTHING and town.baselines.known(BOX, 0) is None
    assert no_baseline(BOX) is NOTHING and no_baseline(BOX, 0) is None
    town.do("exec", "/bin/a")
    town.judge()
    first = known(town.baselines)
    assert (first.state, first.names["exec"]) == ("learning", {"/bin/a"})
    assert first.settled == WALL + 600 * SECOND
    town.do("exec", "/bin/a")
    town.judge()
    assert town.baselines.known(BOX, first.edition) is None
    town.do("exec", "/bin/b")
    town.judge()
    second = town.baselines.known(BOX, first.edition)
    assert second is not None and second.names["exec"] == {"/bin/a", "/bin/b"}
    town.baselines.judge(DIGEST, WALL + 1, [("exec", "/opt/**")])
    town.wait(5)
    town.do("exec", "/bin/c")
    town.do("exec", "/opt/x/y")
    town.judge()
    locked = known(town.baselines)
    assert (locked.state, locked.settled) == ("locked", 0)
    assert locked.names["exec"] == {"/bin/a", "/bin/b", "/opt/x/y"}
    assert locked.accepted == {("exec", "/opt/**")}
    town.baselines.drop(DIGEST)
    assert town.baselines.known(BOX, locked.edition) is NOTHING


@pytest.mark.parametrize(
    ("marks", "sure"),
    [(0, True), (Mark.HELD, False), (Mark.ATTEMPT | Mark.IO_URING, False), (Mark.RAW_PATH, True)],
)  # fmt: skip
def test_a_connection_that_is_held_back_is_not_done_yet(marks: int, sure: bool):
    """It counts as seen, as it did; policies take it for new until one is let go."""
    town = Town()
    town.do("exec", "/bin/a")
    town.wait(700)
    town.do("connect", "198.51.100.9:80", ret=-115, marks=int(marks))
    assert town.judge() == [("new", "198.51.100.9:80")]
    town.wait(1)
    town.do("connect", "198.51.100.9:80", ret=-115, marks=int(marks))
    assert town.judge() == []
    assert known(town.baselines).names["connect"] == ({"198.51.100.9:80"} if sure else frozenset())
    before = known(town.baselines).edition
    town.do("connect", "198.51.100.9:80")
    town.judge()
    assert known(town.baselines).names["connect"] == {"198.51.100.9:80"}
    assert (known(town.baselines).edition == before) is sure


def test_what_was_tried_before_a_lock_and_done_after_it_is_not_in_it():
    town = Town()
    town.do("connect", "198.51.100.9:80", ret=-115, marks=int(Mark.HELD))
    town.do("connect", "198.51.100.10:80")
    town.judge()
    town.baselines.judge(DIGEST, WALL + 1, ())
    town.wait(5)
    town.do("connect", "198.51.100.9:80")
    town.judge()
    assert known(town.baselines).names["connect"] == {"198.51.100.10:80"}
    town.baselines.judge(DIGEST, WALL + 6 * SECOND, ())
    assert len(known(town.baselines).names["connect"]) == 2


def test_a_file_that_is_only_named_is_not_read():
    town = Town()
    for path, flags in (("/etc/a", os.O_PATH), ("/etc/b", os.O_RDONLY)):
        town.do("read", path, flags=flags)
    town.judge()
    assert known(town.baselines).names["read"] == {"/etc/b"}


def test_whether_it_was_done_is_stored(tmp_path, capsys):
    town = Town()
    town.do("connect", "198.51.100.9:80", marks=int(Mark.HELD))
    town.do("connect", "198.51.100.10:80")
    town.judge()
    state = State(tmp_path / "state.db")

    def keep() -> dict[str, bool]:
        with state.transaction() as link:
            stored.put(link, town.baselines.changes())
        town.baselines.saved(town.baselines.changes())
        return {row.name: not row.tried for row in stored.entries_of(state.link, DIGEST)}

    assert keep() == {"198.51.100.9:80": False, "198.51.100.10:80": True}
    shown = ["baseline", "show", DIGEST, "--store", str(tmp_path)]
    assert main(shown) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [("tried" in line) for line in lines if "198.51" in line] == [False, True]
    assert main([*shown, "--json"]) == ExitCode.OK
    assert '"tried":true' in capsys.readouterr().out.replace(" ", "")
    (profile,) = stored.profiles(state.link)
    again = Baselines()
    again.load(profile, stored.entries_of(state.link, DIGEST))
    assert known(again).names["connect"] == {"198.51.100.10:80"}
    town.do("connect", "198.51.100.9:80")
    town.judge()
    assert keep() == {"198.51.100.9:80": True, "198.51.100.10:80": True}
    # What somebody else has seen to be done stays so.
    with state.transaction() as link:
        old = EntryRow(DIGEST, "connect", "198.51.100.9:80", WALL, WALL, 1, (), 0)
        doubtful = Baselines()
        doubtful.learn(old)
        stored.put(link, doubtful.changes())
    assert not any(row.tried for row in stored.entries_of(state.link, DIGEST))
    state.close()


def test_how_a_doorkeeper_tells_what_is_new():
    made = Normal("i", LATER, {"read": frozenset(("/etc/a",))})
    assert not made.is_new("read", "/etc/b", LATER), "it is still being learnt"
    assert made.is_new("read", "/etc/b", LATER + 1) and made.is_new("exec", "/etc/a", LATER + 1)
    assert not made.is_new("read", "/etc/a", LATER + 1)
    kept: dict[str, Normal] = {}
    made.keep(kept)
    assert kept == {"i": made}
    Normal("i").keep(kept)
    assert not kept
    for new in (None, frozenset[str](), frozenset(("read",)), frozenset(("write",))):
        asked = Asked("c", False, ("/root/.ssh/id_rsa",), ("",), None, (), new)
        for (question,) in questions_of(asked, "box", {"baseline": "locked"}, ACTIONS):
            told = question.context.get("first_seen")
            assert told == (None if new is None else KINDS[question.action] in new)
            assert question.context["baseline"] == "locked"


def test_without_an_agent_the_store_is_read(tmp_path):
    told: list[Known] = []
    keeper = SimpleNamespace(normal=lambda one: told.append(one) or True)
    reading = 'forbid (principal, action == Action::"exec", resource) when { %s };'
    engines = [
        Engine.of([(reading % text, "p.cedar")])
        for text in ("true", "context has first_seen && context.first_seen")
    ]
    assert OfStore.asked_by(engines[0], tmp_path, keeper) is None
    made = OfStore.asked_by(engines[1], tmp_path, keeper)
    assert made is not None
    assert "baselines are not known" in made.look() and made.look() == ""
    facts: dict[str, object] = {}
    assert made.tell(BOX, facts) == "" and facts == {"baseline": "none"}
    town = Town()
    town.do("exec", "/bin/a")
    town.judge()
    state = State(tmp_path / "state.db")
    with state.transaction() as link:
        stored.put(link, town.baselines.changes())
    state.close()
    made._due = time.monotonic()
    assert made.look() == ""
    for _ in range(2):
        assert made.tell(BOX, facts) == DIGEST
    assert facts == {"baseline": "learning"}
    assert [one.names["exec"] for one in told] == [{"/bin/a"}]
