"""What is held, as it is lived: a real kernel, a person without rights, tricks against it."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.held import Laptop, missing_seccomp
from support.hook import Hook, answer
from support.scratch import poll

pytestmark = [
    pytest.mark.skipif(missing_seccomp() is not None, reason=str(missing_seccomp())),
    pytest.mark.timeout(120),
]

POLICY = """
@id("vault") @reason("not yours")
forbid (principal == Workload::"box", action in [Action::"open-read", Action::"open-write"],
        resource is Path)
when { resource.path like "FOLDER/vault/*" };
@id("no-wallets")
forbid (principal, action == Action::"use-secret", resource)
when { resource has kind && resource.kind == "wallet" };
@id("no-pickles")
forbid (principal, action == Action::"load-plugin", resource)
when { resource has plugin && resource.plugin == "pickle" };
@id("no-exec")
forbid (principal, action == Action::"exec", resource is Binary)
when { resource.path == "FOLDER/forbidden" };
@id("no-words")
forbid (principal, action == Action::"exec", resource is Binary)
when { context has command && context.command like "*forbidden-word*" };
@id("no-port")
forbid (principal, action == Action::"connect", resource is Address)
when { resource has port && resource.port == 9999 };
@id("no-socket")
forbid (principal, action == Action::"connect", resource is Address)
when { resource has path && resource.path like "FOLDER/vault/*" };
@id("no-name")
forbid (principal, action == Action::"connect", resource is Host)
when { resource.name == "localhost" && resource has port && resource.port == 9997 };
@id("no-listen")
forbid (principal, action == Action::"listen", resource is Address)
when { resource has port && resource.port == 9998 };
"""

FILES = """
vault, secret = FOLDER + "/vault", FOLDER + "/vault/secret"
os.symlink(secret, FOLDER + "/link")
os.symlink("/proc/self/root" + secret, FOLDER + "/deep")
os.mkdir(FOLDER + "/made")
os.mkdir(FOLDER + "/made/below")
attempt("plain", lambda: read(secret))
attempt("relative", lambda: read("vault/../vault/secret"))
attempt("link", lambda: read(FOLDER + "/link"))
attempt("deep", lambda: read(FOLDER + "/deep"))
attempt("root", lambda: read("/proc/self/root" + secret))
attempt("thread", lambda: read("/proc/thread-self/root" + secret))
attempt("pid", lambda: read(f"/proc/{os.getpid()}/cwd/vault/secret"))
at = os.open(vault, os.O_PATH)
attempt("folder", lambda: read("secret", dir_fd=at))
held = os.open(secret, os.O_PATH)
attempt("held", lambda: read(f"/proc/self/fd/{held}"))
attempt("held-dev", lambda: read(f"/dev/fd/{held}"))
how = struct.pack("=QQQ", 0, 0, 8)
attempt("openat2", lambda: call("openat2", at, b"secret", how, 24))
how = struct.pack("=QQQ", os.O_RDWR, 0, 0)
attempt("openat2-plain", lambda: call("openat2", -100, secret.encode(), how, 24))
attempt("hard", lambda: os.link(secret, FOLDER + "/hard"))
attempt("hard-held", lambda: call("linkat", -100, f"/proc/self/fd/{held}".encode(), -100,
                                  f"{FOLDER}/hard".encode(), 0x400))
attempt("moved", lambda: os.rename(secret, FOLDER + "/moved"))
attempt("moved-folder", lambda: os.rename(vault, FOLDER + "/other"))
attempt("replaced", lambda: os.rename(FOLDER + "/plain", secret))
attempt("cut", lambda: os.truncate(secret, 0))
attempt("cut-open", lambda: os.open(FOLDER + "/link", os.O_WRONLY | os.O_TRUNC))
attempt("cut-read", lambda: os.open(secret, os.O_RDONLY | os.O_TRUNC))
attempt("made", lambda: os.open(vault + "/new", os.O_WRONLY | os.O_CREAT, 0o666))
os.symlink(vault + "/new", FOLDER + "/dangling")
attempt("made-link", lambda: os.open(FOLDER + "/dangling", os.O_WRONLY | os.O_CREAT, 0o666))
attempt("made-read", lambda: os.open(vault + "/new", os.O_RDONLY | os.O_CREAT, 0o666))
"""
# What a program may rely on is as it was.
FAITH = """
attempt("own", lambda: read(FOLDER + "/plain"))
attempt("missing", lambda: read(FOLDER + "/missing"))
attempt("not-folder", lambda: read(FOLDER + "/plain/x"))
attempt("loop", lambda: os.open(FOLDER + "/link", os.O_RDONLY | os.O_NOFOLLOW))
attempt("denied", lambda: read("/etc/shadow"))
attempt("bad-pointer", lambda: libc.open(ctypes.c_void_p(8), 0) + ctypes.get_errno() * 0)
attempt("self", lambda: str("Name:\\tpython3" in read("/proc/self/status")))
attempt("self-pid", lambda: str(read("/proc/self/stat").split()[0] == str(os.getpid())))
attempt("thread-self", lambda: str("Name:" in read("/proc/thread-self/status")))
out, into = os.pipe()
os.write(into, b"piped")
attempt("pipe", lambda: os.read(os.open(f"/dev/fd/{out}", os.O_RDONLY), 5).decode())
os.umask(0o027)
fd = os.open(FOLDER + "/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
os.write(fd, b"one")
attempt("mode", lambda: os.fstat(fd).st_mode & 0o777)
attempt("owner", lambda: str(os.fstat(fd).st_uid == os.geteuid()))
attempt("cloexec", lambda: str(os.get_inheritable(fd)))
attempt("exists", lambda: os.open(FOLDER + "/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
attempt("tmpfile", lambda: os.open(FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600) > 2)
attempt("folder-listed", lambda: str("plain" in os.listdir(FOLDER)))
attempt("rename", lambda: os.rename(FOLDER + "/made", FOLDER + "/made2"))
attempt("linked", lambda: os.link(FOLDER + "/plain", FOLDER + "/plain2"))
os.mkfifo(FOLDER + "/fifo")
got = []
reader = threading.Thread(target=lambda: got.append(read(FOLDER + "/fifo")))
reader.start()
with open(FOLDER + "/fifo", "w") as fifo:
    fifo.write("through")
reader.join()
found["fifo"] = got[0]
attempt("deleted", lambda: os.unlink(FOLDER + "/new"))
"""
ESCAPES = """
attempt("io_uring", lambda: call("io_uring_setup", 1, 0))
attempt("ptrace", lambda: call("ptrace", 16, os.getppid(), 0, 0))
attempt("userfaultfd", lambda: call("userfaultfd", 0))
attempt("by-handle", lambda: call("open_by_handle_at", 0, 0, 0))
attempt("other-memory", lambda: call("process_vm_writev", os.getppid(), 0, 0, 0, 0, 0))
attempt("mount", lambda: call("mount", 0, 0, 0, 0, 0))
code = struct.pack("=HBBI", 6, 0, 0, 0x7FC00000)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("@HP", 1, ctypes.addressof(buffer))
attempt("newer-listener", lambda: call("seccomp", 1, 8, program))
attempt("supervisor", lambda: os.kill(os.getppid(), 9))
attempt("its-memory", lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR))
attempt("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
"""
EXECS = """
import subprocess
def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    return done.stdout.strip() or done.returncode
os.symlink(FOLDER + "/forbidden", FOLDER + "/alias")
attempt("exec", lambda: run("/bin/echo", "hello"))
attempt("script", lambda: run(FOLDER + "/script"))
attempt("forbidden", lambda: run(FOLDER + "/forbidden"))
attempt("alias", lambda: run(FOLDER + "/alias"))
attempt("exec-root", lambda: run("/proc/self/root" + FOLDER + "/forbidden"))
attempt("as-interpreter", lambda: run(FOLDER + "/odd"))
attempt("word", lambda: run("/bin/echo", "forbidden-word"))
fd = os.open(FOLDER + "/forbidden", os.O_PATH)
argv = (ctypes.c_char_p * 2)(b"x", None)
attempt("execveat", lambda: call("execveat", fd, b"", argv, 0, 0x1000))
attempt("no-program", lambda: run(FOLDER + "/none"))
"""
KINDS = """
wallets = FOLDER + "/.electrum/wallets"
os.makedirs(wallets + "/more", exist_ok=True)
attempt("wallet", lambda: read(wallets + "/one"))
attempt("wallet-linked", lambda: os.link(wallets + "/one", FOLDER + "/one"))
attempt("wallet-listed", lambda: str(os.listdir(wallets + "/more")))
attempt("wallet-made", lambda: os.open(wallets + "/two", os.O_WRONLY | os.O_CREAT) > 2)
attempt("pickle", lambda: read(FOLDER + "/model.pkl"))
attempt("pickle-read", lambda: run("/bin/cat", FOLDER + "/model.pkl"))
"""
NET = """
def to(port, family=socket.AF_INET, host="127.0.0.1", kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as made:
        made.connect((host, port))
        return "connected"
def dgram():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
PORT = int(open(FOLDER + "/port").read())
attempt("connect", lambda: to(PORT))
attempt("refused", lambda: to(9))
attempt("port", lambda: to(9999))
attempt("port-any", lambda: to(9999, host="0.0.0.0"))
attempt("port-6", lambda: to(9999, socket.AF_INET6, "::ffff:127.0.0.1"))
attempt("name", lambda: to(9997))
attempt("sendto", lambda: dgram().sendto(b"x", ("127.0.0.1", 9999)))
attempt("sendmsg", lambda: dgram().sendmsg([b"x"], [], 0, ("127.0.0.1", 9999)))
address = struct.pack("=HHI8x", 0, socket.htons(9999), 0x0100007F)
held = ctypes.create_string_buffer(address)
def unspecified():
    if libc.sendto(dgram().detach(), b"x", 1, 0, held, 16) < 0:
        raise OSError(ctypes.get_errno(), "sendto")
libc.sendto.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
                        ctypes.c_void_p, ctypes.c_uint]
attempt("no-family", unspecified)
receiver = dgram()
receiver.bind(("127.0.0.1", 0))
receiver.settimeout(5)
here = receiver.getsockname()
attempt("sent", lambda: dgram().sendmsg([b"on", b"e"], [], 0, here))
attempt("received", lambda: receiver.recv(9).decode())
attempt("sent-to", lambda: dgram().sendto(b"two", here))
attempt("received-to", lambda: receiver.recv(9).decode())
one, other = socket.socketpair()
out, into = os.pipe()
attempt("passed", lambda: socket.send_fds(one, [b"fd"], [into]))
attempt("taken", lambda: os.write(socket.recv_fds(other, 9, 1)[1][0], b"through"))
attempt("through", lambda: os.read(out, 9).decode())
door = socket.socket(socket.AF_UNIX)
door.bind(FOLDER + "/door")
door.listen()
def unix(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        return "connected"
attempt("unix", lambda: unix(FOLDER + "/door"))
attempt("unix-relative", lambda: unix("door"))
attempt("unix-vault", lambda: unix(FOLDER + "/vault/door"))
def listen(port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return "listening"
attempt("listen", lambda: listen(0))
attempt("listen-port", lambda: listen(9998))
attempt("listen-udp", lambda: listen(9998, socket.SOCK_DGRAM))
"""


@pytest.fixture(scope="module")
def tried() -> Iterator[tuple[Laptop, dict[str, Any]]]:
    """All of the above in one program, and what came of it."""
    with Laptop(POLICY) as laptop, socket.create_server(("127.0.0.1", 0)) as door:
        laptop.write("vault/secret", "s3cret")
        laptop.write("plain", "plain")
        laptop.write(".electrum/wallets/one", "coins")
        laptop.write("model.pkl", "weights")
        laptop.write("forbidden", "#!/bin/sh\necho forbidden\n", 0o755)
        laptop.write("script", "#!/bin/sh\necho script\n", 0o755)
        laptop.write("odd", f"#!{laptop.folder}/forbidden\n", 0o755)
        laptop.write("port", str(door.getsockname()[1]))
        script = "".join((FILES, FAITH, ESCAPES, EXECS, KINDS, NET, "tell()\n"))
        yield laptop, laptop.told(laptop.python(script))


def _of(part: str) -> list[str]:
    lines = part.splitlines()
    return [one.split('"')[1] for one in lines if one.startswith("attempt(")]


def test_no_way_leads_to_what_is_forbidden(tried):
    laptop, found = tried
    assert {name: found[name] for name in _of(FILES)} == dict.fromkeys(_of(FILES), "EPERM")
    assert (laptop.folder / "vault/secret").read_text() == "s3cret"
    assert os.listdir(laptop.folder / "vault") == ["secret"]
    assert not (laptop.folder / "hard").exists()


def test_secrets_and_code_by_their_kind(tried):
    _, found = tried
    assert {name: found[name] for name in _of(KINDS)} == {
        "wallet": "EPERM",
        "wallet-linked": "EPERM",
        "wallet-listed": "[]",
        "wallet-made": True,
        "pickle": "EPERM",
        "pickle-read": "weights",
    }


def test_what_is_allowed_is_as_it_was(tried):
    laptop, found = tried
    assert {name: found[name] for name in [*_of(FAITH), "fifo"]} == {
        "own": "plain",
        "missing": "ENOENT",
        "not-folder": "ENOTDIR",
        "loop": "ELOOP",
        "denied": "EACCES" if os.geteuid() == 0 else found["denied"],
        "bad-pointer": -1,
        "self": "True",
        "self-pid": "True",
        "thread-self": "True",
        "pipe": "piped",
        "mode": 0o640,
        "owner": "True",
        "cloexec": "False",
        "exists": "EEXIST",
        "tmpfile": True,
        "folder-listed": "True",
        "rename": "done",
        "linked": "done",
        "fifo": "through",
        "deleted": "done",
    }
    assert (laptop.folder / "made2/below").is_dir()


def test_ways_around_are_closed(tried):
    _, found = tried
    said = {name: found[name] for name in _of(ESCAPES)}
    signals = said.pop("supervisor")
    assert signals == "EPERM"
    memory = said.pop("its-memory")
    assert memory in ("EACCES", "EPERM")
    assert said == {
        "io_uring": "ENOSYS",
        "ptrace": "EPERM",
        "userfaultfd": "EPERM",
        "by-handle": "EPERM",
        "other-memory": "EPERM",
        "mount": "EPERM",
        "newer-listener": "EBUSY",
        "sctp": "EPROTONOSUPPORT",
    }


def test_programs(tried):
    _, found = tried
    assert {name: found[name] for name in _of(EXECS)} == {
        "exec": "hello",
        "script": "script",
        **dict.fromkeys(["forbidden", "alias", "exec-root", "as-interpreter"], "EPERM"),
        "word": "EPERM",
        "execveat": "EPERM",
        "no-program": "ENOENT",
    }


def test_connections(tried):
    _, found = tried
    refused = ["port", "port-any", "port-6", "name", "sendto", "sendmsg", "no-family"]
    assert {name: found[name] for name in _of(NET)} == {
        "connect": "connected",
        "refused": "ECONNREFUSED",
        **dict.fromkeys(refused, "EPERM"),
        "sent": 3,
        "received": "one",
        "sent-to": 3,
        "received-to": "two",
        "passed": 2,
        "taken": 7,
        "through": "through",
        "unix": "connected",
        "unix-relative": "connected",
        "unix-vault": "ENOENT",
        "listen": "listening",
        "listen-port": "EPERM",
        "listen-udp": "EPERM",
    }


def test_every_verdict_is_in_the_log(tried):
    laptop, _ = tried
    entries = laptop.decisions()
    secret = f"Path:{laptop.folder}/vault/secret"
    blocked = [one for one in entries if one["resource"] == secret and one["effect"] == "block"]
    assert {one["tier"] for one in blocked} == {"seccomp"}
    assert {one["policies"][0] for one in blocked} == {"vault"}
    assert {one["principal"] for one in entries} == {"Workload:box"}
    # What was said before is counted, blocks too.
    assert sum(one["count"] or 1 for one in blocked if one["action"] == "open-read") >= 15
    plain = [one for one in entries if one["resource"] == f"Path:{laptop.folder}/plain"]
    assert {one["effect"] for one in plain} == {"allow"}
    if os.geteuid() == 0:
        assert all("uid:65534" in one["identity"] for one in blocked)


RACE = """
allowed, secret = (FOLDER + "/plain").encode(), (FOLDER + "/vault/secret").encode()
size = max(len(allowed), len(secret)) + 1
path = ctypes.create_string_buffer(allowed, size)
images = [one.ljust(size, b"\\0") for one in (allowed, secret)]
over = False
def flip():
    while not over:
        ctypes.memmove(path, images[1], size)
        ctypes.memmove(path, images[0], size)
threading.Thread(target=flip, daemon=True).start()
seen = set()
end = time.monotonic() + 2
while time.monotonic() < end:
    fd = libc.open(path, os.O_RDONLY)
    if fd >= 0:
        seen.add(os.read(fd, 99).decode())
        os.close(fd)
    else:
        seen.add(errno.errorcode[ctypes.get_errno()])
over = True
found["seen"] = sorted(seen)
tell()
"""


def test_a_path_that_changes_meanwhile_is_decided_on_as_it_was_read():
    with Laptop(POLICY) as laptop:
        laptop.write("vault/secret", "s3cret")
        laptop.write("plain", "plain")
        seen = set(laptop.told(laptop.python(RACE))["seen"])
        assert {"plain", "EPERM"} <= seen, "both were asked for"
        assert "s3cret" not in seen


ONLY_EXEC = """
@id("no-exec")
forbid (principal, action == Action::"exec", resource is Binary)
when { resource.path == "FOLDER/forbidden" };
"""
EXEC_RACE = """
import mmap, signal
allowed, other = b"/bin/true", (FOLDER + "/forbidden").encode()
size = len(other) + 1
shared = mmap.mmap(-1, mmap.PAGESIZE)
path = (ctypes.c_char * size).from_buffer(shared)
images = [one.ljust(size, b"\\0") for one in (allowed, other)]
def flip():
    while True:
        ctypes.memmove(path, images[1], size)
        ctypes.memmove(path, images[0], size)
flipper = os.fork()
if not flipper:
    flip()
argv = (ctypes.c_char_p * 2)(b"x", None)
ends = set()
for _ in range(100):
    child = os.fork()
    if not child:
        libc.execve(path, argv, None)
        os._exit(ctypes.get_errno())
    ends.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.kill(flipper, 9)
found["ends"] = sorted(ends)
tell()
"""


def test_an_exec_that_was_changed_meanwhile_does_nothing():
    """Nothing but exec is asked about, so that nothing else may stop it."""
    with Laptop(ONLY_EXEC) as laptop:
        # Called without arguments it ends with 125, unlike whatever else may happen.
        forbidden = laptop.folder / "forbidden"
        forbidden.write_bytes(Path("/usr/bin/timeout").resolve().read_bytes())
        forbidden.chmod(0o755)
        ends = set(laptop.told(laptop.python(EXEC_RACE))["ends"])
        # 0: true; EPERM: as decided; killed: exchanged after that. ENOENT: read half-way.
        assert ends <= {0, errno.EPERM, errno.ENOENT, -9}, ends
        assert {0, errno.EPERM} <= ends


HELD = """
@id("ask-connect") @effect("challenge") @deadline("1m")
forbid (principal, action == Action::"connect", resource is Address)
when { resource has port && resource.port == PORT };
@id("ask-open") @effect("challenge") @deadline("1m")
forbid (principal, action == Action::"open-read", resource is Path)
when { resource.path == "FOLDER/asked" };
@id("ask-exec") @effect("challenge") @deadline("1m")
forbid (principal, action == Action::"exec", resource is Binary)
when { resource.name == "asked-program" };
@id("ask-soon") @effect("challenge") @deadline("1s")
forbid (principal, action == Action::"open-read", resource is Path)
when { resource.path == "FOLDER/soon" };
"""
ASKS = """
PORT = int(open(FOLDER + "/port").read())
def connect():
    with socket.create_connection(("127.0.0.1", PORT)) as made:
        return made.recv(9).decode()
def program():
    # vfork would have all of us wait.
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(into, 1)
        libc.execv(f"{FOLDER}/asked-program".encode(), ARGV)
        os._exit(ctypes.get_errno())
    os.close(into)
    said = os.read(out, 99).decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "program")
    return said
ARGV = (ctypes.c_char_p * 3)(b"asked", b"word", None)
waits = [
    threading.Thread(target=attempt, args=("connect", connect)),
    threading.Thread(target=attempt, args=("open", lambda: read(FOLDER + "/asked"))),
    threading.Thread(target=attempt, args=("exec", program)),
    threading.Thread(target=attempt, args=("soon", lambda: read(FOLDER + "/soon"))),
]
for one in waits:
    one.start()
attempt("meanwhile", lambda: read(FOLDER + "/port"))
for one in waits:
    one.join()
tell()
"""


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_a_challenge_waits_for_a_person(answer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with Laptop(HELD.replace("PORT", str(port))) as laptop:
            for name in ("asked", "soon"):
                laptop.write(name, name)
            laptop.write("port", str(port))
            laptop.write("asked-program", "#!/bin/sh\necho $1\n", 0o755)

            def serve() -> None:
                with door.accept()[0] as link:
                    link.send(b"welcome")

            if answer == "approve":
                threading.Thread(target=serve, daemon=True).start()
            process = laptop.python(ASKS)

            def lasting() -> list[dict[str, Any]] | None:
                found = [one for one in laptop.waits(3) if "/soon" not in one["resource"]]
                return found if len(found) == 3 else None

            held = poll(lasting, seconds=60, waiting_for="those that do not expire")
            assert {one["action"] for one in held} == {"connect", "open-read", "exec"}
            for one in held:
                code, said = laptop.person(answer, one["id"], "--why", "a test")
                assert code == 0, said
            found = laptop.told(process)
            yes = answer == "approve"
            assert found == {
                "connect": "welcome" if yes else "EPERM",
                "open": "asked" if yes else "EPERM",
                "exec": "word\n" if yes else "EPERM",
                "soon": "EPERM",
                "meanwhile": str(port),
            }
            kinds = [one["kind"] for one in laptop.decisions() if one["held"]]
            ends = ["approved" if yes else "denied"] * 3
            assert sorted(kinds) == sorted(["held"] * 4 + ["expired"] + ends)


ONE = """
@id("no-one")
forbid (principal, action == Action::"open-read", resource is Path)
when { resource.path == "FOLDER/one" };
@id("port-1")
permit (principal == Workload::"box", action == Action::"connect", resource is Address)
when { resource has port && resource.port == 1 };
"""
TWO = """
@id("no-two")
forbid (principal, action == Action::"open-read", resource is Path)
when { resource.path == "FOLDER/two" };
@id("no-listen")
forbid (principal, action == Action::"listen", resource);
"""
FOLLOWS = """
def to(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((host, port))
attempt("one", lambda: read(FOLDER + "/one"))
attempt("listed", lambda: to("203.0.113.1", 1))
attempt("unlisted", lambda: to("203.0.113.1", 2))
attempt("own", lambda: to("127.0.0.1", 2))
print("ready", flush=True)
while found.get("two") != "EPERM":
    attempt("two", lambda: read(FOLDER + "/two"))
attempt("one-then", lambda: read(FOLDER + "/one"))
attempt("unlisted-then", lambda: to("203.0.113.1", 2))
tell()
"""


def test_it_follows_the_set_in_force_and_lists_are_not_about_the_machine_itself():
    with Laptop(ONE) as laptop:
        for name in ("one", "two"):
            laptop.write(name, name)
        laptop.apply("one.cedar", ONE)
        process = laptop.python(FOLLOWS)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        laptop.apply("two.cedar", TWO)
        out, err = process.communicate(timeout=60)
        found = json.loads(out)
        passed = {found.pop(name) for name in ("listed", "unlisted-then")}
        assert passed <= {"done", "ENETUNREACH"}  # as far as there is a way
        assert found == {
            "one": "EPERM",
            "unlisted": "EPERM",
            "own": "done",
            "two": "EPERM",
            "one-then": "one",
        }
        assert "is in force" in err and "listen of box: not spoken of when it started" in err
        told = [one for one in laptop.decisions() if one["kind"] == "policies"]
        assert [one["tier"] for one in told] == ["seccomp"]


def test_whoever_is_held_does_not_approve() -> None:
    ask = """
thread = threading.Thread(target=attempt, args=("open", lambda: read(FOLDER + "/asked")))
thread.start()
(desk,) = os.listdir(FOLDER + "/desks")
def question(**asked):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(f"{FOLDER}/desks/{desk}")
        made.sendall(json.dumps(asked).encode() + b"\\n")
        return json.loads(made.makefile().read())
while not (held := question(ask="list")["held"]):
    time.sleep(0.05)
# Once more from a process that has left its parents behind.
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(0.1)
    answer = question(ask="answer", held=held[0]["held"], yes=True, why="me")
    with open(FOLDER + "/answer", "w") as file:
        file.write(json.dumps(answer))
    os._exit(0)
while not os.path.exists(FOLDER + "/answer") or not open(FOLDER + "/answer").read():
    time.sleep(0.05)
found["answer"] = json.load(open(FOLDER + "/answer"))["error"]
question(ask="answer", held=held[0]["held"], yes=False, why="enough")
thread.join()
tell()
"""
    with Laptop(HELD.replace("PORT", "1")) as laptop:
        laptop.write("asked", "asked")
        found = laptop.told(laptop.python(ask))
        assert "whoever asks does not approve" in found["answer"]
        assert found["open"] == "EPERM"


def test_somebody_elsewhere_answers_by_link() -> None:
    ask = 'attempt("open", lambda: read(FOLDER + "/asked"))\ntell()'
    policy = HELD.replace("PORT", "1").replace(
        '@id("ask-open")', '@id("ask-open") @approvers("link:oncall")'
    )
    with Laptop(policy) as laptop, Hook() as hook:
        laptop.write("asked", "approved")
        laptop.options = ["--approval-webhook", hook.url, "--approval-link-as", "oncall"]
        running = laptop.python(ask)
        told = hook.post(0)
        assert told["resource"] == f"Path:{laptop.folder}/asked"
        answer(told["link"], "approve", "as planned")
        assert laptop.told(running)["open"] == "approved"


def test_a_flood_is_told_to_the_agent() -> None:
    many = """
waits = [threading.Thread(target=attempt, args=(f"soon-{n}", lambda: read(FOLDER + "/soon")))
         for n in range(8)]
for one in waits:
    one.start()
for one in waits:
    one.join()
tell()
"""
    with Laptop(HELD.replace("PORT", "1")) as laptop, socket.socket(socket.AF_UNIX) as agent:
        laptop.write("soon", "")
        agent.bind(laptop.env["HULLWATCH_CALLS"])
        os.chmod(laptop.env["HULLWATCH_CALLS"], 0o666)
        agent.listen()
        agent.settimeout(60)
        found = laptop.told(laptop.python(many))
        assert {found[f"soon-{n}"] for n in range(8)} == {"EPERM"}
        with agent.accept()[0] as link, link.makefile() as lines:
            signal = json.loads(lines.readline())["signal"]
    assert (signal["kind"], signal["held"]) == ("approval_flood", True)
    assert signal["subject"].startswith("Workload:")


def test_when_the_supervisor_dies_nothing_is_let_through() -> None:
    script = """
signal_ = threading.Thread(target=attempt, args=("waits", lambda: read(FOLDER + "/asked")))
signal_.start()
while os.getppid() == PARENT:
    time.sleep(0.05)
signal_.join()
attempt("later", lambda: read(FOLDER + "/plain"))
os.write(done, json.dumps(found).encode())
"""
    script = (
        "PARENT = os.getppid()\ndone = os.open(FOLDER + '/done', os.O_WRONLY | os.O_CREAT)\n"
        + script
    )
    with Laptop(HELD.replace("PORT", "1")) as laptop:
        laptop.write("asked", "asked")
        laptop.write("plain", "plain")
        process = laptop.python(script)
        laptop.waits()
        process.kill()
        process.wait()
        done = laptop.folder / "done"
        said = poll(
            lambda: done.read_text() or None, seconds=20, waiting_for="the program to go on"
        )
        assert '"waits": "ENOSYS"' in said and '"later": "ENOSYS"' in said


HANGS = """
import time
from hullwatch.decide import deciding
from hullwatch.decide.engine import Engine
deciding.DECIDING = 0.3
decide = Engine.decide_any
def hangs(self, questions, **more):
    if questions[0].resource.id.endswith("/slow"):
        time.sleep(600)
    return decide(self, questions, **more)
Engine.decide_any = hangs
"""


@pytest.mark.parametrize("fail", ["closed", "open"])
def test_a_decider_that_hangs_is_not_waited_for(fail: str) -> None:
    policy = POLICY.replace(")\nforbid", f') @fail("{fail}")\nforbid')
    policy = policy.replace('yours")\n', f'yours") @fail("{fail}")\n')
    script = """
for name in ("slow", "plain"):  # all, until it is back
    attempt(name, lambda: read(f"{FOLDER}/{name}"))
tell()
"""
    with Laptop(policy, HANGS) as laptop:
        for name in ("slow", "plain"):
            laptop.write(name, name)
        found = laptop.told(laptop.python(script))
        yes = fail == "open"
        assert found == {name: name if yes else "EPERM" for name in ("slow", "plain")}
        assert any("no answer within 0.3 s" in one["reason"] for one in laptop.decisions())


def test_what_cannot_be_logged_is_not_let_through() -> None:
    script = """
def wait(gone):
    print("ready", flush=True)
    while os.path.exists(FOLDER + "/log") == gone:
        time.sleep(0.02)
wait(True)
attempt("asked", lambda: read(FOLDER + "/asked"))  # nobody could say who approved it
attempt("new", lambda: read(FOLDER + "/new"))  # noted, to be written in a second
while found.get("plain") != "EPERM":
    attempt("plain", lambda: read(FOLDER + "/plain"))
wait(False)
while found.get("then") != "plain":
    attempt("then", lambda: read(FOLDER + "/plain"))
tell()
"""
    with Laptop(HELD.replace("PORT", "1")) as laptop:
        for name in ("asked", "new", "plain"):
            laptop.write(name, name)
        process = laptop.python(script)
        log = laptop.folder / "log"
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        log.rename(laptop.folder / "aside")
        assert process.stdout.readline() == "ready\n"
        assert laptop.person("list", "--json") == (0, "")
        (laptop.folder / "aside").rename(log)
        expected = {"asked": "EPERM", "new": "new", "plain": "EPERM", "then": "plain"}
        assert laptop.told(process) == expected


def test_exit_codes() -> None:
    with Laptop(POLICY) as laptop:
        laptop.write("forbidden", "#!/bin/sh\n", 0o755)
        for command, code in (
            (["/bin/sh", "-c", "exit 3"], 3),
            (["/bin/sh", "-c", "kill -9 $$"], 137),
            ([str(laptop.folder / "forbidden")], 126),
            (["no-such-command"], 127),
        ):
            process = laptop.start(*command)
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, (command, err)
        waiting = laptop.start("/bin/sleep", "60")
        laptop.child(waiting, "sleep")
        poll(lambda: laptop.end(waiting) == 143, seconds=20, waiting_for="its end")


def test_it_is_a_socket_for_nobody_else(tried):
    """Others of the same machine see neither the log nor the policy's answers."""
    laptop, _ = tried
    assert stat.S_IMODE((laptop.folder / "log/decisions.db").stat().st_mode) == 0o600
