"""Opens and execs of real containers, asked of policies through fanotify: what is stopped by
whatever name it is reached, what waits for a person, and that nobody hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from hullwatch.decide.elsewhere import Elsewhere, listen
from hullwatch.decide.log import Entry, Log
from hullwatch.decide.webhook import signature
from hullwatch.demo.runc import cgroup2_root
from hullwatch.permits import doorkeeper
from hullwatch.permits.doorkeeper import Doorkeeper
from hullwatch.permits.messages import Counts, Problem, Told
from hullwatch.sensor.fanotify import Group
from support.bundles import Mount
from support.hook import Hook, answer
from support.images import Image
from support.needs import missing
from support.runc import Container, Done, Runc
from support.scratch import poll

T = TypeVar("T")
KEY = "sixteen bytes or more"
RAW_CALLS = Path(__file__).parents[1] / "support" / "raw_calls.c"


def unusable() -> str | None:
    if reason := missing("runc", "ip"):
        return reason
    try:
        Group().close()
    except OSError as error:
        return f"needs fanotify's permission events: {error}"
    return None


class Guarded:
    """A container whose opens and execs are asked about."""

    def __init__(self, container: Container, policies: str, folder: Path) -> None:
        self.container, self.folder = container, folder
        self.told: list[Entry] = []
        self.problems: list[str] = []
        self.counts = Counts({})
        self.keeper = Doorkeeper(folder / "log")
        self.use(policies)
        self.keeper.watch(container.id, container.name, container.cgroups()[""])
        self.until(lambda: bool(self.asked), "the container to be asked about")

    @property
    def asked(self) -> str:
        """'' until its policies are in force."""
        return self.counts.guarded.get(self.container.id, "") if self.counts.version else ""

    def use(self, policies: str) -> None:
        self.keeper.policies([(policies, "test.cedar")])

    def take(self) -> None:
        for message in self.keeper.take():
            match message:
                case Told(entry):
                    self.told.append(entry)
                case Problem(text):
                    self.problems.append(text)
                case Counts():
                    self.counts = message

    def until(self, question: Callable[[], T], what: str) -> T:
        def answer() -> T:
            self.take()
            return question()

        return poll(answer, seconds=20, waiting_for=f"{what}; {self.problems}")

    def run(self, *argv: str) -> Done:
        return self.container.exec(argv)

    def held(self) -> Entry:
        """What waits for a person."""
        return self.until(
            lambda: next((one for one in self.told if one.kind == "held"), None), "one that waits"
        )  # type: ignore[return-value]

    def decide(self, wish: str, ident: str) -> None:
        command = [sys.executable, "-m", "hullwatch", "approvals", wish, ident, "--why", "a test"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        self.keeper.close()


@pytest.fixture
def guarded(
    runc: Runc, python_image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Guarded]]:
    """guarded(POLICIES, files={PATH: TEXT}, ...) starts a container and guards it; further options
    are those of Runc.start."""
    if reason := unusable():
        pytest.skip(reason)
    (tmp_path / "desk").mkdir()
    monkeypatch.setenv("HULLWATCH_APPROVALS", str(tmp_path / "desk"))
    made: list[Guarded] = []

    def make(policies: str, files: dict[str, str] | None = None, **options: Any) -> Guarded:
        container = runc.start(["sleep", "600"], name="box", image=python_image, **options)
        for name, text in (files or {}).items():
            path = container.bundle.rootfs / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        made.append(Guarded(container, policies, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


SECRET = """
@id("secret") @reason("keys stay where they are")
forbid (principal == Workload::"box", action == Action::"open-read", resource)
when { ["/etc/keys/secret", "/data/secret", "/mnt/new/secret"].contains(resource.path) };
"""

# Each way opens the secret for reading by another name or call; what comes of each as JSON.
WAYS = """
import ctypes, json, os, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
S = "/etc/keys/secret"

def checked(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), "")
    return value

def direct(): return os.open(S, os.O_RDONLY)
def both(): return os.open(S, os.O_RDWR)
def symlink():
    os.symlink(S, "/tmp/s"); return os.open("/tmp/s", os.O_RDONLY)
def hard_link():
    os.link(S, "/tmp/h"); return os.open("/tmp/h", os.O_RDONLY)
def proc_root(): return os.open("/proc/self/root" + S, os.O_RDONLY)
def relative():
    os.chdir("/etc/keys"); return os.open("secret", os.O_RDONLY)
def reopened():
    return os.open("/proc/self/fd/%d" % os.open(S, os.O_PATH), os.O_RDONLY)
def written_reopened():
    return os.open("/proc/self/fd/%d" % os.open(S, os.O_WRONLY), os.O_RDONLY)
def chroot_():
    pid = os.fork()
    if not pid:
        try:
            os.chroot("/etc/keys"); os.open("/secret", os.O_RDONLY); os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "")
    return 0
def openat2():
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0)
    return checked(libc.syscall(437, -100, S.encode(), how, 24))
def by_handle():
    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_byte * 128)]
    handle, mount, path = Handle(128), ctypes.c_int(), b"/data/secret"
    checked(libc.name_to_handle_at(-100, path, ctypes.byref(handle), ctypes.byref(mount), 0))
    return checked(libc.open_by_handle_at(os.open("/data", 0), ctypes.byref(handle), 0))
def bind():
    os.makedirs("/mnt/b", exist_ok=True)
    checked(libc.mount(b"/etc/keys", b"/mnt/b", None, 4096, None))
    return os.open("/mnt/b/secret", os.O_RDONLY)
def new_namespace():
    pid = os.fork()
    if not pid:
        try:
            checked(libc.unshare(0x20000))
            checked(libc.mount(b"/etc/keys", b"/home", None, 4096, None))
            os.open("/home/secret", os.O_RDONLY); os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "")
    return 0
def raw(*words):
    done = subprocess.run(["/usr/bin/raw_calls", *words], capture_output=True, text=True)
    if done.returncode == 77:
        raise LookupError(done.stdout)
    return checked_result(int(done.stdout.split()[-1]))
def checked_result(value):
    if value < 0:
        raise OSError(-value, "")
    return value
def io_uring(): return raw("uring", "open", S)
def call32(): return raw("int80", "5", S, "0")
def volume(): return os.open("/data/secret", os.O_RDONLY)
def volume_link():
    os.link("/data/secret", "/data/other"); return os.open("/data/other", os.O_RDONLY)
def volume_elsewhere():
    pid = os.fork()
    if not pid:
        try:
            checked(libc.unshare(0x20000))
            checked(libc.mount(b"/data", b"/home", None, 4096, None))
            time.sleep(1.2)
            os.open("/home/secret", os.O_RDONLY); os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "")
    return 0
def new_tmpfs():
    os.makedirs("/mnt/new", exist_ok=True)
    checked(libc.mount(b"x", b"/mnt/new", b"tmpfs", 0, None))
    time.sleep(0.3)
    open("/mnt/new/secret", "w").write("x")
    os.rename("/mnt/new/secret", "/mnt/new/other")
    return os.open("/mnt/new/other", os.O_RDONLY)
def renamed():
    os.rename(S, "/tmp/r"); return os.open("/tmp/r", os.O_RDONLY)
def too_long():
    os.chdir("/tmp")
    for _ in range(20):
        os.mkdir("d" * 250); os.chdir("d" * 250)
    return os.open("x", os.O_WRONLY | os.O_CREAT)

said = {}
for way in sys.argv[1].split():
    try:
        globals()[way]()
        said[way] = "open"
    except LookupError as error:
        said[way] = "skipped"
    except OSError as error:
        said[way] = os.strerror(error.errno)
print(json.dumps(said))
"""
ORDERED = (
    "direct both symlink hard_link proc_root relative reopened written_reopened chroot_ openat2"
    " by_handle bind new_namespace io_uring call32 volume volume_link"
    " volume_elsewhere new_tmpfs renamed too_long"
)


@pytest.fixture(scope="module")
def raw_calls(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """None without a compiler: then nothing is called so."""
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        return None
    program = tmp_path_factory.mktemp("raw") / "raw_calls"
    subprocess.run([compiler, "-O1", "-w", "-static", "-o", program, RAW_CALLS], check=True)
    return program


def test_a_secret_is_read_by_no_other_name_or_call(guarded, raw_calls: Path | None, tmp_path: Path):
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "secret").write_text("in a volume")
    box = guarded(
        SECRET,
        {"/etc/keys/secret": "s3cret", "/etc/keys/public": "p", "/ways.py": WAYS},
        privileged=True,
        mounts=[Mount(volume, "/data", writable=True)],
    )
    ways = ORDERED
    if raw_calls:
        shutil.copy(raw_calls, box.container.bundle.rootfs / "usr/bin/raw_calls")
    else:
        ways = ways.replace("io_uring call32 ", "")
    assert box.asked == "open"
    box.until(lambda: box.counts.counts["known_files"] == 2, "the secrets to be known")
    done = box.run("python3", "/ways.py", ways)
    assert done.status == 0, done.stderr
    said = json.loads(done.stdout)
    if said.get("io_uring") == "skipped":
        del said["io_uring"]
    assert len(said) >= 15
    assert said == dict.fromkeys(said, "Operation not permitted")

    # What is beside it, or written, or opened on the host, goes on.
    assert box.run("cat", "/etc/keys/public").stdout == "p"
    assert box.run("sh", "-c", "echo more >> /tmp/r").status == 0
    assert (box.container.bundle.rootfs / "tmp/r").read_text() == "s3cretmore\n"
    assert (volume / "secret").read_text() == "in a volume"
    box.until(lambda: any("reached as /tmp/r" in one.reason for one in box.told), "the log's words")
    named = {f"Path:/{name}/secret" for name in ("etc/keys", "data", "mnt/new")}
    assert {one.resource for one in box.told} == named
    assert {one.policies for one in box.told} == {("secret",)}
    assert "a question failed: OSError: File name too long" in box.problems


TOOL = """
@id("tool") forbid (principal, action == Action::"exec", resource)
when { resource.path == "/usr/bin/tool" };
"""
PROGRAMS = """
@id("later") forbid (principal, action == Action::"exec", resource)
when { resource has upper && resource.upper };
@id("seen") @mode("observe") forbid (principal, action == Action::"exec", resource)
when { resource.name == "uname" };
"""


def test_what_came_after_the_image_does_not_run(guarded):
    box = guarded(PROGRAMS)
    assert box.asked == "exec"
    not_permitted = 126

    def sh(text: str) -> int:
        return box.run("sh", "-c", text).status

    assert sh("cp /bin/busybox /tmp/true && /tmp/true") == not_permitted
    assert sh("printf '#!/bin/sh\\n' > /tmp/script && chmod 755 /tmp/script && /tmp/script") != 0
    assert sh("sh /tmp/script") == 0  # the shell reads it: nobody executes it
    assert sh("mv /tmp/true /tmp/moved; /tmp/moved") == not_permitted
    assert (
        sh('exec 2>/dev/null; x="$(printf "/tmp/\\377x")"; cp /bin/busybox "$x"; "$x" true')
        == not_permitted
    )
    box.until(lambda: any("udcff" in one.resource for one in box.told), "a name that is no UTF-8")
    # The image's own.
    assert sh("/bin/true") == 0
    assert box.run("uname").status == 0
    assert box.run("python3", "-c", "pass").status == 0
    seen = box.until(
        lambda: next((one for one in box.told if one.policies == ("seen",)), None), "the observed"
    )
    assert (seen.effect, seen.wanted, seen.resource) == ("allow", "block", "Binary:/bin/uname")
    loader = next(box.container.bundle.rootfs.glob("lib64/ld-*"), None)
    assert loader is not None
    # docs/files.md: the loader opens what it runs; that is no exec.
    assert sh(f"cp /usr/bin/python3* /tmp/; /lib64/{loader.name} /tmp/python3 -c pass") == 0
    assert not box.problems and not box.counts.counts["faults"]


def test_a_program_under_a_name_that_is_forbidden(guarded):
    box = guarded(TOOL, {"/usr/bin/tool": "#!/bin/sh\necho ran\n"})
    done = box.run("sh", "-c", "/usr/bin/tool; ln /usr/bin/tool /usr/bin/other; /usr/bin/other")
    assert "ran" not in done.stdout
    box.until(lambda: len(box.told) >= 2, "two entries")
    assert {one.resource for one in box.told} == {"Binary:/usr/bin/tool"}
    assert box.told[1].reason.endswith("reached as /usr/bin/other")


BY_KIND = """
@id("no-cloud") forbid (principal, action == Action::"use-secret", resource)
when { resource has kind && resource.kind == "cloud_credentials" };
@id("no-pickles") forbid (principal, action == Action::"load-plugin", resource)
when { resource has plugin && resource.plugin == "pickle" };
@id("plan") @effect("challenge") @deadline("20s")
forbid (principal, action == Action::"open-read", resource) when { resource.path == "/etc/a.key" };
@id("keys") @effect("challenge") @deadline("20s")
forbid (principal, action == Action::"use-secret", resource)
when { resource has kind && resource.kind == "private_key_file" };
"""
LOAD = "open('/srv/model.pkl').read()"


def test_secrets_and_code_are_asked_about_by_their_kind(guarded):
    files = ("/root/.aws/credentials", "/root/.aws-notes", "/srv/model.pkl", "/etc/a.key")
    box = guarded(BY_KIND, dict.fromkeys(files, "text"))

    def sh(text: str) -> int:
        return box.run("sh", "-c", text).status

    assert sh("cat /root/.aws/credentials") == 1
    assert sh("ln -s /root/.aws/credentials /tmp/a && cat /tmp/a") == 1
    assert sh("ln /root/.aws/credentials /tmp/b && cat /tmp/b") == 1  # known by now
    assert box.run("cat", "/root/.aws-notes").stdout == "text"
    assert sh("echo more >> /root/.aws/credentials") == 0  # who writes learns nothing of it
    # Python loads what a `cat` only reads, whatever its thread is called.
    assert box.run("python3", "-c", LOAD).status == 1
    named = f"open('/proc/self/comm', 'w').write('cat'); {LOAD}"
    assert "PermissionError" in box.run("python3", "-c", named).stderr
    assert box.run("cat", "/srv/model.pkl").stdout == "text"
    # docs/files.md: a program is known by its name.
    assert sh(f'cp /usr/bin/python3 /tmp/odd && /tmp/odd -c "{LOAD}"') == 0
    box.until(lambda: len({one.action for one in box.told}) == 2, "both to be told")
    assert {(one.action, one.resource, one.policies) for one in box.told} == {
        ("use-secret", "Secret:/root/.aws/credentials", ("no-cloud",)),
        ("load-plugin", "Path:/srv/model.pkl", ("no-pickles",)),
    }

    # Each action that is challenged is approved by itself; a block of one is the open's.
    for second, status in (("approve", 0), ("deny", 1)):
        box.told.clear()
        thread, done = read_later(box, "cat", "/etc/a.key")
        first = box.held()
        assert (first.action, first.policies) == ("open-read", ("plan",))
        box.decide("approve", first.held)
        then = box.until(
            lambda: next((o for o in box.told if (o.kind, o.action) == ("held", "use-secret")), 0),
            "the second",
        )
        assert (then.resource, then.policies) == ("Secret:/etc/a.key", ("keys",)) and not done
        box.decide(second, then.held)
        thread.join(20)
        assert done[0].status == status
    assert not box.problems and not box.counts.counts["faults"]


CHALLENGED = """
@id("asked") @effect("challenge") @deadline("20s")
forbid (principal, action == Action::"open-read", resource) when { resource.path == "/etc/plan" };
@id("soon") @effect("challenge") @deadline("1s") @fail("open")
forbid (principal, action == Action::"open-read", resource) when { resource.path == "/etc/soon" };
"""


def cgroup_of(box: Guarded) -> Path:
    return cgroup2_root() / box.container.cgroups()[""].lstrip("/")


def read_later(box: Guarded, *argv: str) -> tuple[threading.Thread, list[Done]]:
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.append(box.run(*argv)))
    thread.start()
    return thread, done


def test_a_held_open_waits_for_a_person(guarded):
    box = guarded(CHALLENGED, {"/etc/plan": "a plan", "/etc/soon": "now"})
    thread, done = read_later(box, "cat", "/etc/plan")
    entry = box.held()
    assert box.run("cat", "/etc/hostname").status == 0  # others go on meanwhile
    assert not done
    command = [sys.executable, "-m", "hullwatch", "approvals", "show", entry.held]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "/etc/plan" in shown.stdout and "Workload:box" in shown.stdout
    box.decide("approve", entry.held)
    thread.join(20)
    assert done[0].stdout == "a plan"
    # Once is not for the next time.
    box.told.clear()
    thread, done = read_later(box, "cat", "/etc/plan")
    box.decide("deny", box.held().held)
    thread.join(20)
    assert done[0].status == 1
    # Nobody answers: as the policy fails.
    assert box.run("cat", "/etc/soon").stdout == "now"
    box.close()
    log = Log(box.folder / "log", write=False)
    assert log.verify().ok
    kinds = [one.kind for one in log.entries() if one.resource == "Path:/etc/plan"]
    assert [one for one in kinds if one != "verdict"] == ["held", "approved", "held", "denied"]
    assert "expired" in [one.kind for one in log.entries()]
    log.close()


def test_who_is_killed_while_it_waits_waits_no_longer(guarded):
    box = guarded(CHALLENGED, {"/etc/plan": "a plan"})
    thread, done = read_later(box, "cat", "/etc/plan")
    box.held()
    for pid in (cgroup_of(box) / "cgroup.procs").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text() == "cat\n":
            os.kill(int(pid), signal.SIGKILL)
    thread.join(20)
    assert done[0].status == 137
    ended = box.until(
        lambda: next((one for one in box.told if one.kind == "cancelled"), None), "the end"
    )
    assert "has ended" in ended.why


def test_what_is_held_when_the_guard_ends_is_refused(guarded):
    box = guarded(CHALLENGED, {"/etc/plan": "a plan"})
    thread, done = read_later(box, "cat", "/etc/plan")
    box.held()
    box.close()
    thread.join(20)
    assert done[0].status == 1
    assert box.run("cat", "/etc/plan").stdout == "a plan"
    log = Log(box.folder / "log", write=False)
    assert [one.kind for one in log.entries(kinds=("held", "cancelled"))] == ["held", "cancelled"]
    log.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_nobody_hangs_with_the_process_that_answers(guarded, number: int):
    box = guarded(SECRET + CHALLENGED, {"/etc/keys/secret": "s", "/etc/plan": "a plan"})
    thread, done = read_later(box, "cat", "/etc/plan")
    box.held()
    first = box.counts.worker
    os.kill(first, number)
    began = time.monotonic()
    assert box.run("cat", "/etc/hostname").status == 0
    assert time.monotonic() - began < 15
    thread.join(20)
    assert done[0].stdout == "a plan"  # the kernel lets it go on, and that is said:
    box.until(lambda: any("let through" in one for one in box.problems), "the gap to be told")
    box.until(lambda: box.counts.worker != first and box.asked == "open", "a new start")
    assert box.run("cat", "/etc/keys/secret").status == 1
    box.close()
    log = Log(box.folder / "log", write=False)
    [lost] = log.entries(kinds=("lost",))
    assert (lost.effect, lost.resource) == ("allow", "Path:/etc/plan")
    log.close()


def test_nobody_hangs_when_all_of_it_is_killed_at_once(guarded):
    box = guarded(CHALLENGED, {"/etc/plan": "a plan"})
    thread, done = read_later(box, "cat", "/etc/plan")
    box.held()
    os.kill(box.keeper.pid, signal.SIGKILL)
    os.kill(box.counts.worker, signal.SIGKILL)
    thread.join(20)
    assert done[0].stdout == "a plan"
    box.until(lambda: not box.keeper.alive, "the end to be seen")


def test_no_link_waits_for_ever_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a doorkeeper that sleeps, one whose worker cannot begin, and one that has ended."""
    if reason := unusable():
        pytest.skip(reason)
    monkeypatch.setenv("HULLWATCH_APPROVALS", str(tmp_path))
    (tmp_path / "log").write_text("no folder")
    page = listen("127.0.0.1", 0)
    address = page.getsockname()
    to = Elsewhere(hook="http://localhost:9/", base="", name="oncall", listening=page.detach())
    keeper, said = Doorkeeper(tmp_path / "log", elsewhere=to), list[str]()

    def problem(text: str) -> bool:
        said.extend(one.text for one in keeper.take() if isinstance(one, Problem))
        return any(text in one for one in said)

    def turned_away() -> bool:
        """At once; False: nobody listens."""
        try:
            with socket.create_connection(address, timeout=20) as visitor:
                assert visitor.recv(1) == b""
        except ConnectionError as error:
            return not isinstance(error, ConnectionRefusedError)
        return True

    try:
        assert turned_away()
        keeper.policies([(SECRET, "test.cedar")])
        poll(lambda: problem("every open"), seconds=20, waiting_for="a start that failed")
        assert turned_away()
        os.kill(keeper.pid, signal.SIGKILL)
        poll(lambda: problem("no link is answered"), seconds=20, waiting_for="the end to be said")
        assert not keeper.alive
    finally:
        keeper.close()
    poll(lambda: not turned_away(), seconds=20, waiting_for="the worker to end, too")


SLOW = """
import time
from hullwatch.decide.engine import Engine
decide = Engine.decide
def slow(self, question, **more):
    if question.resource.id == "/etc/slow" and question.action == "open-read":
        time.sleep(3)
    return decide(self, question, **more)
Engine.decide = slow
"""


def test_policies_that_take_too_long_are_not_waited_for(guarded, monkeypatch: pytest.MonkeyPatch):
    begin, main = doorkeeper._START.split("; from ", 1)
    monkeypatch.setattr(doorkeeper, "_START", f"{begin}\n{SLOW}\nfrom {main}")
    box = guarded(SECRET, {"/etc/slow": "s", "/etc/other": "o"})
    assert box.run("cat", "/etc/hostname").status == 0
    thread, done = read_later(box, "cat", "/etc/slow")
    late = box.until(
        lambda: next((one for one in box.told if "no answer" in one.reason), None), "the failure"
    )
    assert (late.effect, late.resource) == ("block", "Path:/etc/slow")
    assert box.run("cat", "/etc/hostname").status == 0  # what was decided before
    assert box.run("cat", "/etc/other").status == 1  # what was not, while they do not answer
    thread.join(20)
    assert done[0].status == 1
    box.until(lambda: box.run("cat", "/etc/other").status == 0, "them to answer again")


def test_policies_that_take_too_long_and_fail_open(guarded, monkeypatch: pytest.MonkeyPatch):
    begin, main = doorkeeper._START.split("; from ", 1)
    monkeypatch.setattr(doorkeeper, "_START", f"{begin}\n{SLOW}\nfrom {main}")
    box = guarded(SECRET.replace("@reason", '@fail("open") @reason'), {"/etc/slow": "s"})
    assert box.run("cat", "/etc/slow").stdout == "s"
    late = box.until(
        lambda: next((one for one in box.told if "no answer" in one.reason), None), "the failure"
    )
    assert (late.effect, late.resource) == ("allow", "Path:/etc/slow")


def test_what_cannot_be_logged_waits_for_nobody(guarded):
    box = guarded(SECRET + CHALLENGED, {"/etc/keys/secret": "s", "/etc/plan": "a plan"})
    log = box.folder / "log"
    log.rename(log.with_name("aside"))
    assert box.run("cat", "/etc/plan").status == 1  # at once: nothing could say who approved it
    assert box.run("cat", "/etc/keys/secret").status == 1
    assert not any(one.kind == "held" for one in box.told)
    log.with_name("aside").rename(log)
    thread, done = read_later(box, "cat", "/etc/plan")
    box.decide("approve", box.held().held)
    thread.join(20)
    assert done[0].stdout == "a plan"


def test_policies_that_speak_of_others_cost_nothing(guarded):
    box = guarded(
        'forbid (principal, action == Action::"open-read", resource)'
        ' when { context has kind && context.kind == "agent" };'
    )
    assert box.asked == "nothing"
    assert box.run("cat", "/etc/hostname").status == 0
    assert box.counts.counts["events"] == 0
    box.use(SECRET)
    box.until(lambda: box.asked == "open", "the new set")
    assert box.run("cat", "/etc/hostname").status == 0
    box.until(lambda: box.counts.counts["allowed"] > 0, "events")
    box.keeper.release(box.container.id)
    box.until(lambda: not box.counts.guarded, "it to be let go")
    before = box.counts.counts["events"]
    assert box.run("cat", "/etc/hostname").status == 0
    box.use(SECRET + CHALLENGED)  # whatever was counted is told with it
    version = box.counts.version
    box.until(lambda: box.counts.version != version, "the counts")
    assert box.counts.counts["events"] == before


def test_what_cannot_be_used_or_guarded_is_said(guarded):
    box = guarded(SECRET, {"/etc/keys/secret": "s"})
    box.use("forbid (principal, action, resource) when { context.nothing };")
    box.until(lambda: any("was refused" in one for one in box.problems), "the refusal")
    box.keeper.watch("gone", "gone", "/no/such/cgroup")
    box.until(lambda: any("not guarded: gone" in one for one in box.problems), "the reason")
    assert box.run("cat", "/etc/keys/secret").status == 1  # the set before stays


def test_a_container_is_guarded_from_its_beginning(guarded, runc: Runc, python_image: Image):
    """As the agent does: told of when its cgroup is made, before it has its own root folder."""
    box = guarded(SECRET)
    code = (
        "import time\nfor _ in range(400):\n try: open('/etc/hostname').read()\n"
        " except PermissionError: print('stopped', flush=True); break\n time.sleep(0.02)"
    )
    box.use(SECRET.replace("/data/secret", "/etc/hostname").replace('"box"', '"late"'))
    bundle = runc.make(["python3", "-c", code], name="late", image=python_image)
    began = threading.Thread(target=lambda: runc.launch(bundle))
    began.start()
    root = cgroup2_root()

    def made() -> str | None:
        found = [*root.glob(bundle.id), *root.glob(f"*/{bundle.id}")]
        return f"/{found[0].relative_to(root)}" if found else None

    box.keeper.watch(bundle.id, "late", poll(made, seconds=20, waiting_for="its cgroup"))
    box.until(lambda: "stopped" in (bundle.folder / "stdout").read_text(), "the open to be stopped")
    began.join(20)
    assert not box.problems


def test_the_command_guards_until_it_is_ended(runc: Runc, tmp_path: Path):
    """And tells somebody elsewhere of what waits; a new start of who answers does, too."""
    if reason := unusable():
        pytest.skip(reason)
    container = runc.start(["sleep", "600"], name="cell")
    policies = SECRET.replace('Workload::"box"', 'Workload::"cell"') + CHALLENGED
    named = policies.replace('@id("asked")', '@id("asked") @approvers("link:oncall")')
    (tmp_path / "p.cedar").write_text(named)
    path = container.bundle.rootfs / "etc/keys/secret"
    path.parent.mkdir()
    path.write_text("s3cret")
    (container.bundle.rootfs / "etc/plan").write_text("a plan")
    command = [sys.executable, "-m", "hullwatch", "guard", container.id[:12], "--json"]
    command += ["--policy", str(tmp_path / "p.cedar"), "--log", str(tmp_path / "log")]
    command += ["--approval-webhook", "env:HOOK", "--approval-webhook-secret", "env:KEY"]
    command += ["--approval-link-as", "oncall"]
    with Hook() as hook, ThreadPoolExecutor() as others:
        env = os.environ | {"HOOK": hook.url, "KEY": KEY}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert process.stdout is not None
        try:
            rows = map(json.loads, process.stdout)
            asks = next(row for row in rows if "open" in row.get("guarded", {}).values())
            assert container.exec(["cat", "/etc/keys/secret"]).status == 1
            told = next(row for row in rows if row["what"] == "told")
            assert told["entry"]["resource"] == "Path:/etc/keys/secret"

            reading = others.submit(container.exec, ["cat", "/etc/plan"])
            first = hook.post(0)
            headers, body = hook.told[0]
            signed = signature(KEY.encode(), headers["Hullwatch-Timestamp"], body)
            assert headers["Hullwatch-Signature"] == signed
            answer(first["link"], "approve", "ticket 7")
            assert reading.result(20).stdout == "a plan"

            os.kill(asks["worker"], signal.SIGKILL)
            fresh = (row for row in rows if row.get("worker", asks["worker"]) != asks["worker"])
            next(row for row in fresh if "open" in row["guarded"].values())
            reading = others.submit(container.exec, ["cat", "/etc/plan"])
            second = hook.post(1)
            assert urlsplit(second["link"]).netloc == urlsplit(first["link"]).netloc
            answer(second["link"], "deny", "not again")
            assert reading.result(20).status == 1
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
    assert container.exec(["cat", "/etc/keys/secret"]).stdout == "s3cret"
    log = Log(tmp_path / "log", write=False)
    assert [one.effect for one in log.entries(kinds=("verdict",))] == ["block"]
    assert {one.by for one in log.entries(kinds=("approved", "denied"))} == {"link:oncall"}
    log.close()
