"""What is asked for of containers, held against cgroups that are folders here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hullwatch.context.processes import ProcessTable
from hullwatch.context.workload import Workload
from hullwatch.decide.quarantine import How, Quarantine
from hullwatch.quarantining import Quarantining


class Known:
    """Containers: their cgroups, and how many are still being looked up."""

    def __init__(self, root: Path) -> None:
        self.v2_root: str | None = str(root)
        self.found: dict[str, list[Workload]] = {}
        self.pending = 0

    def make(self, ident: str, cgroup: int, *files: str) -> Path:
        assert self.v2_root is not None
        folder = Path(self.v2_root, ident)
        folder.mkdir()
        for name in ("cgroup.procs", *files):
            (folder / name).write_text("0\n" if name == "cgroup.freeze" else "")
        self.found[ident] = [
            Workload(cgroup=cgroup, cgroup_path=f"/{ident}", state="resolved", container_id=ident)
        ]
        return folder

    def of_container(self, container_id: str) -> list[Workload]:
        return self.found.get(container_id, [])

    def stats(self) -> dict[str, int]:
        return {"state_pending": self.pending}


class Held:
    def __init__(self, room: int = 1024) -> None:
        self.cgroups: frozenset[int] = frozenset()
        self.room = room

    def hold(self, cgroups: object) -> frozenset[int]:
        self.cgroups = frozenset(sorted(set(cgroups))[: self.room])  # type: ignore[call-overload]
        return self.cgroups


def asked(ident: str, how: How = How.NETWORK, **more: object) -> Quarantine:
    given = {"id": f"q-{ident}-{how}", "container_id": ident, "container": ident} | more
    return Quarantine(how=how, owner="ann", reason="why", created=1, **given)  # type: ignore[arg-type]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


def states(made: Quarantining, *rows: Quarantine) -> dict[str, str]:
    return {one.id: one.state for one in made.follow(rows)}


def test_frozen_and_let_go(known: Known):
    folder = known.make("a", 7, "cgroup.freeze")
    cut = Held()
    made = Quarantining(cut, known, ProcessTable())  # type: ignore[arg-type]
    (one,) = made.follow([asked("a", How.FREEZE)])
    assert (one.state, cut.cgroups) == ("in force", {7}) and one.applied
    assert (folder / "cgroup.freeze").read_text() == "1"
    assert made.follow([one]) == []  # nothing new
    lifted = asked("a", How.FREEZE, state="in force", applied=2, lifted=3)
    assert states(made, lifted) == {lifted.id: "lifted"} and not cut.cgroups
    assert (folder / "cgroup.freeze").read_text() == "0"


def test_of_two_that_freeze_one_the_last_lets_go(known: Known):
    folder = known.make("a", 7, "cgroup.freeze")
    made = Quarantining(Held(), known, ProcessTable())  # type: ignore[arg-type]
    first = asked("a", How.FREEZE, state="in force", applied=2, lifted=3)
    second = asked("a", How.FREEZE, id="second")
    made.follow([first, second])
    assert (folder / "cgroup.freeze").read_text() == "1"


def test_nothing_is_said_of_what_is_still_being_looked_up(known: Known):
    made = Quarantining(Held(), known, ProcessTable())  # type: ignore[arg-type]
    known.pending = 1
    rows = [
        asked("a", How.FREEZE, state="in force", applied=2, lifted=3),
        asked("b", state="in force", applied=2),
        asked("c"),
    ]
    assert made.follow(rows) == []
    known.pending = 0
    assert list(states(made, *rows).values()) == [
        "lifted",
        "gone",
        "failed: no such container runs here now",
    ]


def test_what_cannot_be_done_says_why(known: Known, tmp_path: Path):
    known.make("old", 7)
    known.make("many", 9)
    own = known.make("own", 11)
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    cut = Held(room=1)
    made = Quarantining(cut, known, ProcessTable())  # type: ignore[arg-type]
    found = states(made, asked("old", How.KILL), asked("many"), asked("own", How.KILL))
    assert found["q-many-network"] == "failed: too many are cut off from the network"
    assert found["q-own-kill"] == "failed: it is the agent's own container"
    assert not (own / "cgroup.kill").exists() and 11 not in cut.cgroups
