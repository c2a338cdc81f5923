"""Opens and execs without a kernel: how purposes, mounts, names and messages are read."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from hullwatch.cli import guard
from hullwatch.context.workload import Workload
from hullwatch.decide.approvals import Terms
from hullwatch.decide.desk import DeskError, ask
from hullwatch.decide.elsewhere import Elsewhere, listen
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Entry, Log, LogError
from hullwatch.decide.question import Effect, Entity
from hullwatch.decide.webhook import signature
from hullwatch.opened import OPENS, READING
from hullwatch.permits import doorkeeper, held, threads
from hullwatch.permits.asked import Approval, Asked, questions_of, strongest_of, verdict_of
from hullwatch.permits.container import Opened, cgroup_path, cgroup_text, files_named
from hullwatch.permits.doorkeeper import facts_of
from hullwatch.permits.held import Holding, Outcome
from hullwatch.permits.messages import Channel, Counts, Ping, Policies, Problem, Told, Watch
from hullwatch.sensor import opening
from hullwatch.sensor.identities import Identities
from hullwatch.sensor.mounts import Mount, plan, read_mounts, resolve
from hullwatch.sensor.opening import read_purpose
from support.hook import Hook, answer
from support.scratch import poll

TAIL = b"0x7ffd0 0x7f1"


def line(number: int, *arguments: int) -> bytes:
    words = [hex(one).encode() for one in (*arguments, *([0] * (6 - len(arguments))))]
    return b" ".join([str(number).encode(), *words, TAIL])


@pytest.mark.parametrize(
    ("said", "purpose"),
    [
        (line(257, 0xFFFFFF9C, 0x1, os.O_RDONLY | os.O_CLOEXEC), "read"),
        (line(257, 0xFFFFFF9C, 0x1, os.O_WRONLY | os.O_CREAT), "write"),
        (line(257, 0xFFFFFF9C, 0x1, os.O_RDWR), ""),
        (line(257, 0xFFFFFF9C, 0x1, os.O_RDONLY | os.O_TRUNC), ""),
        (line(2, 0x1, os.O_WRONLY), "write"),
        (line(85, 0x1), "write"),
        (line(304, 3, 0x1, os.O_RDONLY), "read"),
        (line(437, 3, 0x1, 0x2, 24), ""),  # openat2: in memory, which others may change
        (line(426, 3, 1), ""),  # io_uring_enter
        (line(59, 0x1), "exec"),
        (line(322, 3, 0x1), "exec"),
        (line(5, 0x1, os.O_WRONLY), "write"),  # open of i386
        (line(295, 0xFFFFFF9C, 0x1, os.O_RDONLY), "read"),
        (line(0x40000000 | 257, 0xFFFFFF9C, 0x1, os.O_RDONLY), "read"),  # x32
        (line(0x40000000 | 520, 0x1), "exec"),
        (b"running\n", ""),
        (b"-1 0x7ffd 0x7f1\n", ""),
        (b"", ""),
    ],
)
def test_purpose_is_read_of_registers(said, purpose):
    assert read_purpose(said, "x86_64") == purpose


def test_who_is_not_asleep_yet_is_looked_at_again(monkeypatch):
    openat = 257 if os.uname().machine == "x86_64" else 56
    said = iter([b"running\n"] * 4 + [line(openat, 0xFFFFFF9C, 0x1, os.O_RDONLY)])
    monkeypatch.setattr(opening, "_syscall", lambda thread: next(said))
    assert opening.purpose_of(1) == "read"
    monkeypatch.setattr(opening, "_syscall", lambda thread: b"running\n")
    assert opening.purpose_of(1) == ""  # not for ever


def test_purpose_of_arm():
    assert read_purpose(line(56, 0xFFFFFF9C, 0x1, os.O_RDONLY), "aarch64") == "read"
    assert read_purpose(line(221, 0x1), "aarch64") == "exec"
    assert read_purpose(line(257, 0xFFFFFF9C, 0x1, os.O_RDONLY), "aarch64") == ""


HOST = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
90 27 0:50 / /run/box/rootfs rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\040x,workdir=/w
91 27 0:51 / /run/kubelet/secret rw - tmpfs tmpfs rw
"""
INSIDE = """\
200 199 0:50 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\040x,workdir=/w
201 200 0:60 / /proc rw - proc proc rw
202 200 0:61 / /dev rw - tmpfs tmpfs rw
203 200 254:0 /srv/data /data\\040set ro - ext4 /dev/vda rw
204 200 0:51 / /run/secret ro - tmpfs tmpfs rw
205 200 0:62 / /mnt/far rw - fuse.sshfs far rw
206 200 0:63 / /late rw - overlay overlay rw,lowerdir=/mnt/far
not a line
"""


def points(mounts: tuple[Mount, ...]) -> list[str]:
    return [one.point for one in mounts]


def test_own_file_systems_are_marked_whole_and_shared_ones_by_mount():
    host, inside = read_mounts(HOST), read_mounts(INSIDE)
    made = plan(inside, host)
    assert points(made.filesystems) == ["/", "/dev", "/late"]
    assert points(made.mounts) == ["/data set", "/run/secret"]
    assert made.gaps == ("/mnt/far (fuse.sshfs)",)
    assert inside[0].upper == "/u x"


def test_an_overlay_that_came_later_may_hide_a_slow_layer():
    made = plan(read_mounts(INSIDE), read_mounts(HOST), late=True)
    assert points(made.filesystems) == ["/", "/dev"]
    assert "/late (overlay)" in made.gaps


def test_the_hosts_root_is_never_marked_whole():
    for kind in ("ext4", "overlay"):
        host = read_mounts(f"27 1 0:9 / / rw - {kind} x rw\n")
        inside = read_mounts(f"200 199 0:9 /srv/rootfs / rw - {kind} x rw\n")
        made = plan(inside, host)
        assert not made.filesystems
        assert points(made.mounts) == ["/"]


def test_no_link_leads_out_of_a_container(tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "secret").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "secret").write_text("outside")
    (root / "link").symlink_to("/etc/secret")
    (root / "up").symlink_to("../../etc/secret")
    fd = os.open(root, os.O_PATH)
    inside = (root / "etc" / "secret").stat().st_ino
    for name in ("/link", "/up", "/../etc/secret"):
        found = resolve(fd, name, links=True)
        assert os.fstat(found).st_ino == inside
        os.close(found)
    with pytest.raises(OSError):
        resolve(fd, "/link/x")
    with pytest.raises(OSError):
        resolve(fd, "../etc/secret", beneath=True)
    os.close(fd)


def test_files_that_policies_name_are_found_under_the_policys_name(tmp_path):
    for name in ("run/real/a.key", "run/real/deep/b.key", "run/real/c.txt", "etc/shadow"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "var").symlink_to("run")
    texts = [
        'forbid (principal, action, resource) when { resource.path like "/var/real/*.key" };',
        'forbid (principal, action, resource) when { resource.path == "/etc/shadow" };',
        'forbid (principal, action, resource) when { resource.path like "/proc/*/environ" };',
        'forbid (principal, action, resource) when { resource.name == "c.txt" };',
    ]
    root = os.open(tmp_path, os.O_PATH)
    found = {}
    for fd, name in files_named(root, iter(texts)):
        found[name] = os.fstat(fd).st_ino
        os.close(fd)
    os.close(root)
    assert found == {
        "/etc/shadow": (tmp_path / "etc/shadow").stat().st_ino,
        "/var/real/a.key": (tmp_path / "run/real/a.key").stat().st_ino,
        "/var/real/deep/b.key": (tmp_path / "run/real/deep/b.key").stat().st_ino,
    }


def test_a_file_is_known_until_its_last_name_is_gone(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("x")
    known = Identities(limit=1)
    fd = os.open(first, os.O_PATH)
    key = Opened.of(fd).key
    known.learn(fd, key, "box", "/first")
    known.learn(fd, key, "box", "/other")
    known.learn(fd, key, "cell", "/there")
    os.close(fd)
    assert (known.path(key, "box"), known.path(key, "cell")) == ("/first", "/there")
    assert known.path(key, "else") == ""
    os.link(first, second)
    first.unlink()
    known.drain()
    assert known.path(key, "box") == "/first"
    second.unlink()
    known.drain()
    assert (known.path(key, "box"), len(known)) == ("", 0)
    known.close()


def test_no_more_files_are_known_than_there_is_room_for(tmp_path):
    known = Identities(limit=1)
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
        fd = os.open(tmp_path / name, os.O_PATH)
        known.learn(fd, Opened.of(fd).key, "box", f"/{name}")
        os.close(fd)
    assert (len(known), known.refused) == (1, 1)
    known.close()


def test_a_name_that_only_looks_deleted_is_kept(tmp_path):
    path = tmp_path / "tool (deleted)"
    path.write_text("")
    fd = os.open(path, os.O_PATH)
    assert Opened.of(fd).path == str(path)
    os.close(fd)
    gone = tmp_path / "tool"
    gone.write_text("")
    fd = os.open(gone, os.O_PATH)
    gone.unlink()
    assert Opened.of(fd).path == str(gone)
    os.close(fd)


def test_the_cgroup_is_that_of_version_2():
    assert cgroup_path(b"4:cpu:/a\n10::/b\n0::/c d/0::e\n") == "/c d/0::e"
    assert cgroup_path(b"4:cpu:/a\n") == ""
    assert b"\n" + cgroup_text(os.getpid()) in b"\n" + Path("/proc/self/cgroup").read_bytes()
    assert cgroup_text(0) == b""


# --- messages -----------------------------------------------------------------------------


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(one), Channel(other)


def test_messages_of_any_length_arrive_whole():
    ours, theirs = pair()
    long = Policies((("x" * 3_000_000, "long.cedar"),))
    sent = [
        Watch("id", "box", "/box", {"kind": "agent"}),
        long,
        Told(Entry(action="exec")),
        Ping(3),
    ]
    ours.send(*sent)
    found: list[object] = []
    while len(found) < len(sent) and theirs.open:
        found += theirs.take()
        ours.flush()
    assert found == sent
    ours.close()
    assert not theirs.take() and not theirs.open
    theirs.close()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\xc1\xc1"])
def test_what_is_no_message_ends_the_channel(data):
    raw, theirs = socket.socketpair()
    raw.sendall(data)
    channel = Channel(theirs)
    assert not channel.take() and not channel.open
    channel.close()
    raw.close()


def test_who_does_not_read_costs_messages_and_not_memory():
    ours, theirs = pair()
    big = Policies((("x" * (10 << 20), "big.cedar"),))
    for _ in range(5):
        ours.send(big)
    assert ours.refused >= 1 and ours.open
    ours.close()
    theirs.close()


# --- what is held -------------------------------------------------------------------------


class Desk:
    """Holding, and the end at which people answer."""

    def __init__(
        self, folder: Path, requester: bool = False, elsewhere: Elsewhere | None = None
    ) -> None:
        self.woken = threading.Event()
        self.holding = Holding(
            folder / "log", None, self.woken.set, lambda pid: requester, elsewhere
        )
        self.path = folder / f"{os.getpid()}.sock"

    def hold(self, number: int, *approvers: str) -> None:
        entry = Entry(time=time.time_ns(), principal="Workload:box", action="open-read",
                      resource="Path:/x", effect=Effect.CHALLENGE, wanted=Effect.CHALLENGE,
                      policies=("p",), tier="fanotify")  # fmt: skip
        self.holding.hold(
            number,
            entry,
            Terms(approvers=(approvers,) if approvers else (), deadline=60),
            {"said": "open-read /x"},
        )

    def outcome(self) -> Outcome:
        found = self.holding.take()
        while not found:
            assert self.woken.wait(10)
            self.woken.clear()
            found = self.holding.take()
        [one] = found
        return one

    def answer(self, held: str, yes: bool) -> str:
        return str(ask(self.path, ask="answer", held=held, yes=yes, why="a test")["done"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HULLWATCH_APPROVALS", str(tmp_path))
    return tmp_path


def test_a_person_lets_what_is_held_go_on(folder):
    desk = Desk(folder)
    desk.hold(7)
    held = desk.outcome()
    assert (held.number, held.effect, held.entry.kind) == (7, "challenge", "held")
    assert desk.answer(held.entry.held, True) == "approved"
    over = desk.outcome()
    assert (over.number, over.effect, over.entry.kind) == (7, "allow", "approved")
    desk.holding.close(5)
    log = Log(folder / "log", write=False)
    assert [one.kind for one in log.entries()] == ["held", "approved"]
    log.close()


def test_whoever_is_asked_about_does_not_approve(folder):
    desk = Desk(folder, requester=True)
    desk.hold(1)
    held = desk.outcome().entry.held
    with pytest.raises(DeskError, match="whoever asks does not approve"):
        desk.answer(held, True)
    assert desk.answer(held, False) == "denied"  # that much it may
    assert desk.outcome().effect == "block"
    desk.holding.close(5)


def elsewhere(hook: str) -> Elsewhere:
    sock = listen("127.0.0.1", 0)
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"
    return Elsewhere(
        hook=hook, secret="of sixteen bytes", base=base, name="oncall", listening=sock.detach()
    )


def test_somebody_elsewhere_is_told_and_answers_by_link(folder):
    with Hook() as hook:
        # Whose requests come from the machine itself: a link is no process below who asks.
        desk = Desk(folder, requester=True, elsewhere=elsewhere(hook.url))
        desk.hold(1, "link:oncall")
        assert desk.outcome().effect == "challenge"
        told = hook.post(0)
        headers, body = hook.told[0]
        signed = signature(b"of sixteen bytes", headers["Hullwatch-Timestamp"], body)
        assert headers["Hullwatch-Signature"] == signed and told["resource"] == "Path:/x"
        answer(told["link"], "approve", "ticket 1")
        over = desk.outcome()
        assert (over.effect, over.entry.kind) == ("allow", "approved")
        poll(lambda: desk.holding.told()["webhook_sent"] == 1, seconds=10, waiting_for="the count")
        desk.hold(2, "alice")  # whose policy names no link
        held = desk.outcome()
        assert hook.post(1)["link"] == ""
        desk.holding.close(5)
        assert desk.outcome().effect == "block"
    log = Log(folder / "log", write=False)
    assert [(one.kind, one.by) for one in log.entries(kinds=("approved", "cancelled"))] == [
        ("approved", "link:oncall"),
        ("cancelled", ""),
    ]
    log.close()
    with pytest.raises(URLError):  # the page has ended, too
        urlopen(told["link"], timeout=10)
    assert held.entry.held == hook.post(1)["id"]


def test_what_the_webhook_was_not_told_is_counted_and_why(folder, monkeypatch):
    monkeypatch.setattr("hullwatch.decide.webhook.TRIES", (0.0,))
    with listen("127.0.0.1", 0) as nobody:
        port = nobody.getsockname()[1]
    desk = Desk(folder, elsewhere=elsewhere(f"http://127.0.0.1:{port}/"))
    assert desk.holding.told() == {"webhook_sent": 0, "webhook_failed": 0}
    assert desk.holding.unheard == ""
    desk.hold(1)
    held = desk.outcome()
    poll(lambda: desk.holding.told()["webhook_failed"] == 1, seconds=10, waiting_for="the count")
    assert desk.holding.unheard
    assert desk.answer(held.entry.held, True) == "approved"  # it waits for a person all the same
    desk.holding.close(5)


def test_nothing_is_held_or_approved_without_an_entry(folder, monkeypatch):
    desk = Desk(folder)
    desk.hold(1)
    held = desk.outcome().entry.held

    def full(self: Log, *entries: Entry) -> None:
        raise LogError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Log, "append", full)
        with pytest.raises(DeskError, match="full"):
            desk.answer(held, True)
        desk.hold(2)
        refused = desk.outcome()
        assert (refused.number, refused.effect) == (2, "block")
        assert desk.holding.problem == "the disk is full"
    assert desk.answer(held, True) == "approved"
    assert desk.outcome().effect == "allow"
    desk.holding.close(5)


def test_what_is_noted_is_written_when_the_disk_is_back(folder, monkeypatch):
    desk = Desk(folder)
    with monkeypatch.context() as patched:
        patched.setattr(held, "MAX_UNWRITTEN", 2)
        patched.setattr(
            Log, "append", lambda self, *entries: (_ for _ in ()).throw(LogError("full"))
        )
        for number in range(3):
            desk.holding.note(Entry(resource=f"Path:/{number}"))
    assert desk.holding.unlogged == 1
    desk.holding.close(5)
    log = Log(folder / "log", write=False)
    assert [one.resource for one in log.entries()] == ["Path:/0", "Path:/1"]
    log.close()


# --- what a workload is asked about -------------------------------------------------------

SET = """
forbid (principal, action == Action::"open-read", resource)
when { context has kind && context.kind == "code-interpreter" && resource.path like "/run/*" };
forbid (principal, action == Action::"exec", resource) when { context.labels.contains("x") };
permit (principal == Workload::"listed", action == Action::"open-write", resource)
when { context has kind && context.kind == "never" };
forbid (principal is Workload, action in [Action::"listen", Action::"privilege"], resource)
when { principal.name == "one" && context has program && context.program == "/x" };
forbid (principal, action == Action::"load-plugin", resource)
unless { context has program };
"""


@pytest.mark.parametrize(
    ("action", "name", "facts", "concerned"),
    [
        ("load-plugin", "a", {}, True),  # where the program cannot be told
        ("open-read", "a", {}, False),
        ("open-read", "a", {"kind": "agent"}, False),
        ("open-read", "a", {"kind": "code-interpreter"}, True),
        ("open-read", "a", {"image": "docker.io/jupyter:1"}, True),
        ("open-read", "a", {"image": "docker.io/nginx:1"}, False),
        ("exec", "a", {}, True),  # by labels, which each question brings
        ("open-write", "a", {}, False),
        ("open-write", "listed", {}, True),  # a permit's head makes a list
        ("listen", "a", {}, False),
        ("listen", "one", {}, True),
        ("connect", "a", {}, False),
        ("open-read", 'odd"name', {}, True),  # where it cannot be told
    ],
)
def test_what_no_policy_could_hold_for_is_not_asked(action, name, facts, concerned):
    engine = Engine.of([(SET, "a.cedar")])
    assert engine.concerns(action, Entity("Workload", name), facts) is concerned


def test_what_policies_read():
    engine = Engine.of([(SET, "a.cedar")])
    assert engine.reads("open-read") == {"kind", "path"}
    assert engine.reads("exec") == {"labels"}
    assert engine.reads("connect") == set()


def test_facts_of_a_workload_are_those_known():
    labels = {"hullwatch.kind": "agent", "else": "x"}
    one = Workload(cgroup=1, cgroup_path="/x", state="resolved", image="a/b:1", labels=labels)
    assert facts_of(one) == {"image": "a/b:1", "kind": "agent"}


def test_effects_are_in_the_order_of_strength():
    assert [*Effect] == [Effect.ALLOW, Effect.CHALLENGE, Effect.BLOCK]


# --- one open, several actions ------------------------------------------------------------

BOTH = """
@id("read") @effect("challenge") @approvers("ann")
forbid (principal, action == Action::"open-read", resource) when { resource.path like "/etc/*" };
@id("secret") @effect("challenge") @approvers("bob")
forbid (principal, action == Action::"use-secret", resource)
when { resource has kind && resource.kind == "account_hashes" };
@id("never") forbid (principal, action == Action::"load-plugin", resource)
when { resource has plugin && resource.plugin == "pickle" };
@id("seen") @mode("observe") forbid (principal, action == Action::"use-secret", resource)
when { resource has kind && resource.kind == "env_file" };
"""


def verdict(
    name: str, approved: tuple[str, ...] = (), plugin: str = "", actions: tuple[str, ...] = OPENS
) -> dict[str, str]:
    """Of an open: action and what comes of it, then which of them is the strongest."""
    asked = Asked("id", False, (name,), (plugin,), None, (("labels", ()),))
    questions = questions_of(asked, "box", {}, actions)
    engine = Engine.of([(BOTH, "a.cedar")])
    answered = [
        Approval(one) for one in verdict_of(engine, questions, ()) if one.action in approved
    ]
    found = verdict_of(engine, questions, answered)
    strongest = strongest_of(found, answered)
    return {
        **{one.action: str(one.decision.effect) for one in found},
        "strongest": strongest.action,
    }


def test_an_approval_of_one_action_is_none_of_another():
    first = verdict("/etc/shadow", actions=READING)
    assert first == {"open-read": "challenge", "use-secret": "challenge", "strongest": "open-read"}
    then = verdict("/etc/shadow", ("open-read",), actions=READING)
    assert then == {"open-read": "allow", "use-secret": "challenge", "strongest": "use-secret"}
    other = verdict("/etc/shadow", ("use-secret",), actions=READING)
    assert other == {"open-read": "challenge", "use-secret": "allow", "strongest": "open-read"}
    both = verdict("/etc/shadow", ("open-read", "use-secret"), actions=READING)
    assert set(both.values()) - {"open-read"} == {"allow"}


def test_an_approval_by_one_name_of_a_file_is_none_by_another():
    engine = Engine.of(
        [
            (
                '@id("keys") @effect("challenge") @approvers("bob")'
                ' forbid (principal, action == Action::"open-read", resource)'
                ' when { resource.path == "/etc/key" };'
                '@id("soon") @effect("challenge") @fail("open")'
                ' forbid (principal, action == Action::"open-read", resource)'
                ' when { resource.path like "/tmp/*" };',
                "a.cedar",
            )
        ]
    )
    asked = Asked("id", False, ("/tmp/link", "/etc/key"), ("", ""), None, ())
    questions = questions_of(asked, "box", {}, READING)
    approved: list[Approval] = []
    said = []
    for _ in range(3):
        (ruled,) = verdict_of(engine, questions, approved)
        said.append((*ruled.decision.policies, str(ruled.decision.effect)))
        approved.append(Approval(ruled))
    assert said[:2] == [("soon", "challenge"), ("keys", "challenge")] and said[2][-1] == "allow"


def test_an_approval_by_one_set_is_none_where_another_asks_for_others():
    text = (
        '@id("keys") @effect("challenge") @approvers("{}")'
        ' forbid (principal, action == Action::"open-read", resource)'
        ' when {{ resource.path == "/etc/key" }};'
    )
    asked = Asked("id", False, ("/etc/key",), ("",), None, ())
    questions = questions_of(asked, "box", {}, READING)
    before = Engine.of([(text.format("bob"), "a.cedar")])
    approved = [Approval(one) for one in verdict_of(before, questions, ())]
    for people, effect in (("bob", "allow"), ("ann", "challenge")):
        after = Engine.of(
            [
                (text.format(people), "a.cedar"),
                ("forbid (principal, action, resource) when { false };", "b.cedar"),
            ]
        )
        (ruled,) = verdict_of(after, questions, approved)
        assert ruled.decision.effect == effect


def test_a_block_wins_whatever_was_approved():
    for approved in ((), ("open-read",), ("load-plugin",)):
        found = verdict("/etc/model.pkl", approved, "pickle")
        assert (found["load-plugin"], found["strongest"]) == ("block", "load-plugin")
    assert "load-plugin" not in verdict("/etc/model.pkl")  # a cat reads it


def test_only_what_a_policy_speaks_of_is_asked_and_the_observed_comes_first():
    assert verdict("/srv/x", actions=("open-read", "exec")) == {
        "open-read": "allow",
        "strongest": "open-read",
    }
    found = verdict("/srv/.env")
    assert (found["use-secret"], found["strongest"]) == ("allow", "use-secret")


def test_a_thread_loads_what_its_program_or_its_name_says():
    me = threading.get_native_id()
    names = ("/srv/model.pkl", "/srv/text")
    assert threads.plugins(names, me) == ("pickle", "")  # this is Python
    assert threads.plugins(names, 0) == ("", "")  # it has ended


def test_while_nobody_answers_the_agent_is_told_that_nothing_is_asked_about(monkeypatch):
    """What the one that ended had said must not stand until the next has a set, if ever."""
    agent, ours = map(Channel, socket.socketpair())
    keeping = doorkeeper._Keeping.__new__(doorkeeper._Keeping)
    keeping._agent, keeping._worker, keeping._known = ours, Channel(socket.socket()), Identities()
    keeping._pid, keeping._desk, keeping._starts = 0x7FFFFFFF, Path("/nowhere"), []
    page = socket.create_server(("127.0.0.1", 0))
    told = Elsewhere(hook="", base="", name="x", listening=page.fileno())
    keeping._given = doorkeeper._Given("", "", None, told)
    visitor = socket.create_connection(page.getsockname(), timeout=20)
    monkeypatch.setattr(keeping, "_start", lambda: None)
    keeping._again("it ended")
    counts, problem = agent.take()
    assert counts == Counts({}) and isinstance(problem, Problem) and problem.gap
    screen = guard._Screen(False)
    screen.show(counts)  # has none of the losses
    assert visitor.recv(1) == b""  # who followed a link of the one that ended
    agent.close()
    ours.close()


def test_the_end_of_who_answers_ends_its_links_and_is_said_once():
    keeper = doorkeeper.Doorkeeper.__new__(doorkeeper.Doorkeeper)
    ours, theirs = socket.socketpair()
    keeper._channel, keeper._tells = Channel(ours), True
    assert list(keeper.take()) == []
    theirs.send(struct.pack("=I", 3) + b"\xc1\xc1\xc1")  # no message: it is done with
    (said,) = keeper.take()
    assert isinstance(said, Problem) and "no link is answered" in said.text
    assert theirs.recv(1) == b"" and list(keeper.take()) == []  # so that it ends, too
