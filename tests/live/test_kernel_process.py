"""What the kernel says of processes: fork, exec, exit, and those that were there before."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from hullwatch.sensor.wire import Class, Mark, ProcMark, Verdict
from support.runc import Runc
from support.watch import PID_MASK, Watch, call, missing_bpf, own_cgroup

pytestmark = pytest.mark.scenario

ARGV_ROOM = 16384  # kernel/common.h
BUSYBOX = shutil.which("busybox") or "busybox"


def test_fork_exec_exit_tell_one_story(watch: Watch):
    done = watch.run([BUSYBOX, "sh", "-c", "exit 7"], cwd="/usr/bin")
    process = watch.process(done.pid)
    assert process.exe == os.path.realpath(BUSYBOX)
    assert process.argv == (BUSYBOX.encode(), b"sh", b"-c", b"exit 7")
    assert process.cwd == os.path.realpath("/usr/bin")
    assert process.row["ppid"] == os.getpid()
    assert int(process.row["parent"]) & PID_MASK == os.getpid()
    assert not process.marks & (ProcMark.ARGV_CUT | ProcMark.SCRIPT | ProcMark.STR_LOST)
    fork = watch.expect("fork", num=done.proc)
    assert fork.num2 == fork.flags == done.pid
    assert fork.proc == int(process.row["parent"])
    ended = done.event("exit")
    assert ended.ret == 7
    assert os.waitstatus_to_exitcode(ended.flags) == 7
    assert 0 < ended.num < 60_000_000_000
    assert fork.ts <= int(process.row["ts"]) <= ended.ts
    executed = done.event("exec")
    assert (executed.obj, executed.op) == (process.exe, "execve")
    assert executed.num == os.stat(BUSYBOX).st_ino


def test_ids_namespaces_and_capabilities_are_the_kernels(watch: Watch):
    done = watch.run([BUSYBOX, "true"], user=65534, group=65533, extra_groups=[])
    row = watch.process(done.pid).row
    assert (row["uid"], row["euid"], row["gid"], row["egid"]) == (65534, 65534, 65533, 65533)
    assert row["cap_effective"] == 0
    assert row["pid"] == row["tid"] == row["vpid"] == done.pid
    assert row["pgid"] == os.getpgrp() and row["sid"] == os.getsid(0)
    for name in ("pid", "mnt", "net", "user", "uts", "ipc", "cgroup"):
        assert row[f"ns_{name}"] == os.stat(f"/proc/self/ns/{name}").st_ino, name
    told = os.stat(os.path.realpath(BUSYBOX))
    assert row["exe_mtime"] == told.st_mtime_ns
    assert row["exe_ctime"] == told.st_ctime_ns
    assert (row["exe_mode"], row["exe_uid"]) == (told.st_mode, told.st_uid)
    assert row["comm"] == b"busybox"


def test_death_by_signal_is_told(watch: Watch):
    child = watch.act(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    ended = child.event("exit")
    assert os.waitstatus_to_exitcode(ended.flags) == -signal.SIGUSR1


def test_thread_group_ends_once_with_its_status(watch: Watch):
    code = (
        "import threading,time,os;threading.Thread(target=time.sleep,args=(9,)).start();os._exit(5)"
    )
    done = watch.run([sys.executable, "-c", code])
    assert done.event("exit").ret == 5


def test_long_argv_is_cut_and_says_how_long_it_was(watch: Watch):
    words = [BUSYBOX, "true", "x" * 20000, "y" * 30000]
    done = watch.run(words)
    process = watch.process(done.pid)
    whole = sum(len(word) + 1 for word in words)
    assert process.marks & ProcMark.ARGV_CUT
    assert process.argv_string.orig_len == whole
    assert process.argv_string.marks & Mark.TRUNCATED
    assert len(process.argv_string.data) == ARGV_ROOM
    assert b"\0".join(w.encode() for w in words).startswith(process.argv_string.data)


def test_argv_of_just_the_room_is_whole(watch: Watch):
    start = len(BUSYBOX) + 1 + len("true") + 1
    done = watch.run([BUSYBOX, "true", "z" * (ARGV_ROOM - start - 1)])
    process = watch.process(done.pid)
    assert not process.marks & ProcMark.ARGV_CUT
    assert len(process.argv_string.data) == process.argv_string.orig_len == ARGV_ROOM


def test_hostile_argv_survives_byte_for_byte(watch: Watch):
    words = [b"busybox", b"true", b"a\nb", b"\x1b[31mred\x1b[0m", b"\xff\xfe", b"", b"  ", b"'\"\\"]
    done = watch.run(words, executable=BUSYBOX)
    assert watch.process(done.pid).argv == tuple(words)


def raw_execve(path: str, argv: list[bytes], environment: list[bytes]) -> None:
    """execve(2) with what libraries would refuse to pass."""
    words = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    names = (ctypes.c_char_p * (len(environment) + 1))(*environment, None)
    call("execve", path.encode(), words, names)


def test_empty_argv_is_no_error(watch: Watch):
    """Linux 5.18 and later make it one empty argument; busybox ends with 127 then."""
    child = watch.act_exec(lambda: raw_execve(BUSYBOX, [], []))
    process = watch.process(child.pid)
    assert process.argv in ((b"",), ())
    assert process.env == ()
    assert not process.marks & ProcMark.ARGV_UNREADABLE


FAILURES = [("missing", errno.ENOENT), ("plain", errno.EACCES), ("empty", errno.ENOEXEC)]


@pytest.mark.parametrize(("name", "error"), FAILURES)
@pytest.mark.parametrize("relative", [False, True])
def test_exec_that_fails(watch: Watch, tmp_path: Path, name: str, error: int, relative: bool):
    """ENOENT, EACCES and ENOEXEC: the caller goes on, and is still what it was."""
    folder = tmp_path.resolve()
    (folder / "plain").write_text("no program")
    (folder / "empty").touch(0o755)
    asked = f"./{name}" if relative else str(folder / name)

    def run() -> int:
        os.chdir(folder)
        words = (ctypes.c_char_p * 2)(b"x", None)
        return call("execve", asked.encode(), words, None)

    child = watch.act(run)
    assert child.result == -error and child.status == 0
    event = child.event("exec_failed")
    assert event.obj == (f"{folder}/{asked}" if relative else asked)
    assert (event.obj2, event.op, event.ret) == (asked, "execve", -error)
    assert event.marks == Mark.RAW_PATH
    assert not child.events("exec"), "no new program"


def test_execveat_that_fails(watch: Watch, tmp_path: Path):
    """By a directory's fd; and of an fd itself, whose path is the kernel's own."""
    folder = tmp_path.resolve()
    (folder / "empty").touch(0o755)

    def run() -> list[int]:
        words = (ctypes.c_char_p * 2)(b"x", None)
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        it = os.open(folder / "empty", os.O_RDONLY)
        return [
            call("execveat", at, b"missing", words, None, 0),
            call("execveat", it, b"", words, None, 0x1000),  # AT_EMPTY_PATH
        ]

    child = watch.act(run)
    assert child.result == [-errno.ENOENT, -errno.ENOEXEC]
    by_name, by_fd = child.events("exec_failed")
    assert (by_name.obj, by_name.obj2) == (f"{folder}/missing", "missing")
    assert (by_name.op, by_name.ret, by_name.flags) == ("execveat", -errno.ENOENT, 0)
    assert (by_fd.obj, by_fd.obj2, by_fd.op) == (str(folder / "empty"), "", "execveat")
    assert (by_fd.ret, by_fd.flags, by_fd.marks) == (-errno.ENOEXEC, 0x1000, Mark(0))


def test_exec_of_no_readable_name(watch: Watch):
    child = watch.act(lambda: call("execve", 8, 0, 0))
    assert child.result == -errno.EFAULT
    event = child.event("exec_failed")
    assert (event.obj, event.ret) == ("", -errno.EFAULT)
    assert event.marks & Mark.UNREADABLE


def test_search_along_the_path_ends_in_one_exec(watch: Watch, tmp_path: Path):
    places = [tmp_path.resolve() / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
    search = ":".join((*map(str, places), os.path.dirname(BUSYBOX)))
    child = watch.act_exec(
        lambda: os.execvpe("busybox", ["busybox", "true"], os.environ | {"PATH": search})
    )
    assert [e.obj for e in child.events("exec_failed")] == [f"{p}/busybox" for p in places]
    executed = child.event("exec")
    assert executed.obj == os.path.realpath(BUSYBOX)
    assert all(e.ts < executed.ts for e in child.events("exec_failed"))


def test_failed_execs_that_no_rule_asks_for_are_counted(tmp_path: Path):
    """As the rules' answer has it: by container and path."""
    if reason := missing_bpf():
        pytest.skip(reason)
    path = str(tmp_path.resolve() / "missing")

    def run() -> list[int]:
        return [call("execve", path.encode(), None, None) for _ in range(5)]

    watch = Watch(record=False)
    try:
        first, *_ = events = watch.act(run).events("exec_failed", obj=path)
        assert len(events) == 5, "without an answer all are sent"
        verdicts, action = watch.sensor.verdicts, int(Class.EXEC_FAILED)
        verdicts.put(first.cgroup, first.string.id, action, Verdict.COUNT)
        child = watch.act(run)
        assert child.result == [-errno.ENOENT] * 5
        assert not child.events("exec_failed")
        counts = {(c.scope, c.obj, c.action): c.count for c in verdicts.counted()}
        assert counts[first.cgroup, first.string.id, action] == 5
    finally:
        watch.close()


def test_environment_names_and_no_value(watch: Watch):
    secret = f"very-secret-{os.getpid()}-{time.time_ns()}"
    environment = {"OPENAI_API_KEY": secret, "EMPTY": "", "PATH": "/usr/bin", "L": secret * 300}
    done = watch.run([BUSYBOX, "true"], env=environment)
    process = watch.process(done.pid)
    assert set(process.env) == {name.encode() for name in environment}
    assert not process.marks & ProcMark.ENV_CUT
    assert not any(secret.encode() in string.data for string in watch.strings)
    assert not any(b"very-secret" in string.data for string in watch.strings)


def test_hostile_environment(watch: Watch):
    entries = [b"NOEQUALS", b"=odd", b"N" * 300 + b"=1", b"\xff\n=x", b"", b"LAST=secretvalue"]
    entries.insert(3, b"LONG=" + b"secretvalue" * 3000)  # beyond one read of the kernel's
    child = watch.act_exec(lambda: raw_execve(BUSYBOX, [b"busybox", b"true"], entries))
    process = watch.process(child.pid)
    assert process.env == (b"N" * 128, b"LONG", b"\xff\n", b"LAST")
    assert not any(b"secretvalue" in string.data for string in watch.strings)


def test_empty_variables_hide_none_in_silence(watch: Watch):
    entries = [b""] * 3000 + [b"NAME=value"]
    child = watch.act_exec(lambda: raw_execve(BUSYBOX, [b"busybox", b"true"], entries))
    assert watch.process(child.pid).env == (b"NAME",)
    child = watch.act_exec(lambda: raw_execve(BUSYBOX, [b"busybox", b"true"], entries * 3))
    assert watch.process(child.pid).marks & ProcMark.ENV_CUT


def test_very_many_variables_are_cut_and_it_says_so(watch: Watch):
    environment = {f"VARIABLE_NUMBER_{i:05}": "1" for i in range(2000)}
    done = watch.run([BUSYBOX, "true"], env=environment)
    process = watch.process(done.pid)
    assert process.marks & ProcMark.ENV_CUT
    assert 0 < len(process.env) < 2000
    assert all(name.decode() in environment for name in process.env)


def test_controlling_terminal(watch: Watch):
    master, slave = pty.openpty()
    device = os.fstat(slave).st_rdev
    try:
        done = watch.run(
            [BUSYBOX, "true"],
            stdin=slave,
            stdout=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(master)
        os.close(slave)
    row = watch.process(done.pid).row
    assert (row["tty"] >> 20, row["tty"] & 0xFFFFF) == (os.major(device), os.minor(device))
    assert row["sid"] == row["pgid"] == done.pid
    plain = watch.run([BUSYBOX, "true"], start_new_session=True)
    assert watch.process(plain.pid).row["tty"] == 0


def test_memfd_exec(watch: Watch):
    def run() -> None:
        fd = os.memfd_create("hidden name", 0)
        os.write(fd, Path(BUSYBOX).read_bytes())
        os.execve(fd, ["busybox", "true"], {})

    child = watch.act_exec(run)
    process = watch.process(child.pid)
    assert process.marks & ProcMark.MEMFD
    assert not process.marks & ProcMark.DELETED
    assert process.exe == "memfd:hidden name"
    assert process.argv == (b"busybox", b"true")


def test_deleted_program(watch: Watch, tmp_path: Path):
    program = tmp_path / "gone"
    shutil.copy(BUSYBOX, program)

    def run() -> None:
        fd = os.open(program, os.O_RDONLY)
        program.unlink()
        os.execve(fd, ["busybox", "true"], {})

    child = watch.act_exec(run)
    process = watch.process(child.pid)
    assert process.marks & ProcMark.DELETED
    assert not process.marks & ProcMark.MEMFD
    assert process.exe == str(program.resolve())


def test_script_names_interpreter_and_script(watch: Watch, tmp_path: Path):
    script = tmp_path / "script.sh"
    script.write_text(f"#!{BUSYBOX} sh\nexit 3\n")
    script.chmod(0o755)
    done = watch.run([str(script), "argument"])
    process = watch.process(done.pid)
    assert process.marks & ProcMark.SCRIPT
    assert process.exe == os.path.realpath(BUSYBOX)
    assert process.script == str(script)
    assert process.argv == (BUSYBOX.encode(), b"sh", str(script).encode(), b"argument")
    assert done.event("exit").ret == 3


def test_setuid_program_and_the_ids_it_gives(watch: Watch, tmp_path: Path):
    program = Path("/run") / f"hwtest-suid-{os.getpid()}"
    shutil.copy(BUSYBOX, program)
    try:
        program.chmod(0o4755)
        done = watch.run([str(program), "true"], user=65534, group=65534, extra_groups=[])
    finally:
        program.unlink()
    process = watch.process(done.pid)
    assert process.marks & ProcMark.SETID
    assert process.row["uid"] == 65534
    if not os.statvfs("/run").f_flag & os.ST_NOSUID:
        assert process.row["euid"] == 0
    plain = watch.run([BUSYBOX, "true"])
    assert not watch.process(plain.pid).marks & ProcMark.SETID


def test_failed_exec_is_no_exec(watch: Watch):
    def run() -> int:
        return call("execve", b"/nonexistent/program", None, None)

    child = watch.act(run)
    assert child.result == -2
    assert not child.events("exec")


def test_exec_in_a_thread_keeps_the_process(watch: Watch):
    """The thread that calls execve becomes the leader and takes over its start time."""
    code = (
        "import threading,os;"
        f"t=threading.Thread(target=os.execv,args=({BUSYBOX!r},['busybox','sleep','0']));"
        "t.start();t.join()"
    )
    done = watch.run([sys.executable, "-c", code])
    assert [e.obj for e in done.events("exec")][-1] == os.path.realpath(BUSYBOX)
    assert len(done.events("exec")) == 2
    assert len({e.num2 for e in done.events("exec")}) == 2, "each image has an exec id of its own"


def test_program_in_the_writable_layer_of_a_container(watch: Watch, runc: Runc):
    container = runc.start(
        [
            "sh",
            "-c",
            "cp /bin/busybox /bin/dropped; /bin/dropped true; /bin/busybox true; sleep 99",
        ],
        name="upper",
    )
    dropped = watch.expect("exec", obj="/bin/dropped", cgroup=container.cgroup_id())
    process = watch.process(dropped.proc & PID_MASK)
    assert process.marks & ProcMark.UPPER
    assert process.row["vpid"] < 100
    assert process.row["ns_pid"] != os.stat("/proc/self/ns/pid").st_ino
    lower = watch.expect("exec", obj="/bin/busybox", cgroup=container.cgroup_id())
    assert not lower.flags & ProcMark.UPPER


def test_events_carry_the_cgroup_of_their_process(watch: Watch):
    with own_cgroup(f"hwtest-process-{os.getpid()}") as folder:

        def act() -> None:
            (folder / "cgroup.procs").write_text(str(os.getpid()))
            Path("/etc/passwd").read_bytes()
            subprocess.run([BUSYBOX, "true"], check=True)

        child = watch.act(act)
        ident = folder.stat().st_ino
    assert child.event("open", obj="/etc/passwd").cgroup == ident
    assert child.event("exit").cgroup == ident
    inner = watch.expect("exec", cgroup=ident)
    assert inner.obj == os.path.realpath(BUSYBOX)


def test_snapshot_tells_of_processes_that_run_already(tmp_path: Path):
    if reason := missing_bpf():
        pytest.skip(reason)
    process = subprocess.Popen(
        [BUSYBOX, "sh", "-c", "read line; echo $line; read line", "x" * 20000],
        cwd=tmp_path,
        env={"TOKEN_NAME": "its-value", "B": "2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    # Popen returns within execve: what is there once it has answered is the program's own.
    assert process.stdin and process.stdout
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"first\n"
    later = Watch()
    try:
        found = later.process(process.pid, cls=Class.TASK)
        assert found.exe == os.path.realpath(BUSYBOX)
        script = b"read line; echo $line; read line"
        assert found.argv[:4] == (BUSYBOX.encode(), b"sh", b"-c", script)
        assert found.marks & ProcMark.ARGV_CUT
        assert len(found.argv_string.data) == ARGV_ROOM < 20000 < found.argv_string.orig_len
        assert set(found.env) == {b"TOKEN_NAME", b"B"}
        assert found.cwd == str(tmp_path.resolve())
        assert found.row["ppid"] == os.getpid()
        assert not any(b"its-value" in string.data for string in later.strings)
        proc = int(found.row["proc"])
        process.kill()
        process.wait()
        assert later.ended(process.pid).proc == proc, "the same key before and after"
        kthread = later.process(2, cls=Class.TASK)
        assert kthread.marks & ProcMark.KTHREAD and kthread.exe == ""
    finally:
        later.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
