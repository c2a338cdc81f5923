"""What the kernel says of calls that change what a process may do, or that reach into others."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hullwatch.sensor.wire import Mark
from support.scratch import mount
from support.watch import Event, Watch, call

pytestmark = pytest.mark.scenario

CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PTRACE_TRACEME, PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 0, 2, 16, 17


def at_least_one(watch: Watch, function: Callable[[], object], cls: str, **fields: object) -> Event:
    """The one event of this class of a child that runs the function."""
    return watch.act(function).event(cls, **fields)


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of another program, to be reached into."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_ptrace(watch: Watch, victim: int):
    def act() -> list[int]:
        done = [call("ptrace", PTRACE_ATTACH, victim, 0, 0)]
        os.waitpid(victim, 0)
        done.append(call("ptrace", PTRACE_PEEKDATA, victim, 0, 0))
        done.append(call("ptrace", PTRACE_DETACH, victim, 0, 0))
        done.append(call("ptrace", PTRACE_TRACEME, 0, 0, 0))
        return done

    child = watch.act(act)
    assert child.result[0] == 0
    attach, traceme = child.events("ptrace")
    assert (attach.num, attach.num2, attach.ret) == (PTRACE_ATTACH, victim, 0)
    assert traceme.num == PTRACE_TRACEME
    failed = at_least_one(watch, lambda: call("ptrace", PTRACE_ATTACH, 0x3FFFFF, 0, 0), "ptrace")
    assert failed.ret == -3


@pytest.mark.parametrize("name", ["process_vm_readv", "process_vm_writev"])
def test_memory_of_another_process(watch: Watch, victim: int, name: str):
    def act() -> int:
        room = ctypes.create_string_buffer(16)
        local = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 16)
        remote = (ctypes.c_uint64 * 2)(0x10, 16)
        return call(name, victim, local, 1, remote, 1, 0)

    event = at_least_one(watch, act, "vm_access")
    assert (event.op, event.num2, event.ret) == (name, victim, -14)


def test_mounts(watch: Watch, tmp_path: Path):
    folder = tmp_path.resolve()
    (folder / "here").mkdir()
    (folder / "bound").mkdir()

    def act() -> None:
        assert call("unshare", CLONE_NEWNS) == 0
        mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
        mount("hidden", folder / "here", "tmpfs")
        mount(str(folder / "here"), folder / "bound", "", MS_BIND)
        assert call("umount2", bytes(folder / "bound"), 2) == 0
        assert call("umount2", b"/no/where", 0) == -2

    child = watch.act(act)
    unshare = child.event("unshare")
    assert (unshare.flags, unshare.ret) == (CLONE_NEWNS, 0)
    tmpfs = child.event("mount", obj=str(folder / "here"))
    assert (tmpfs.obj2, tmpfs.ret, tmpfs.op) == ("hidden", 0, "mount")
    bind = child.event("mount", obj=str(folder / "bound"))
    assert bind.flags & MS_BIND and bind.obj2 == str(folder / "here")
    gone, failed = child.events("umount")
    assert (gone.obj, gone.flags, gone.ret) == (str(folder / "bound"), 2, 0)
    assert (failed.obj, failed.ret) == ("/no/where", -2)


def test_pivot_root_and_chroot(watch: Watch, tmp_path: Path):
    folder = tmp_path.resolve()

    def act() -> list[int]:
        assert call("unshare", CLONE_NEWNS) == 0
        mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
        mount("none", folder, "tmpfs")
        (folder / "old").mkdir()
        os.chdir(folder)
        done = [call("pivot_root", b".", b"old")]
        os.chroot(".")
        return done

    child = watch.act(act)
    pivot = child.event("pivot_root", op="pivot_root")
    # initramfs, as the guests of tests/vm have it for their root, cannot be pivoted away.
    assert pivot.ret == child.result[0]
    assert pivot.obj2 == "old"
    assert child.event("pivot_root", op="chroot").ret == 0


def test_new_mount_calls(watch: Watch, tmp_path: Path):
    folder = str(tmp_path.resolve())

    def act() -> list[int]:
        assert call("unshare", CLONE_NEWNS) == 0
        return [
            call("fsopen", b"tmpfs", 0),
            call("open_tree", -100, folder.encode(), 1),
            call("move_mount", 1 << 20, b"", -100, folder.encode(), 4),
        ]

    child = watch.act(act)
    assert child.event("mount", op="fsopen").obj2 == "tmpfs"
    assert child.event("mount", op="open_tree").obj == folder
    assert child.event("mount", op="move_mount").obj == folder
    assert child.event("mount", op="move_mount").ret == child.result[2]


def test_namespaces(watch: Watch, victim: int):
    def act() -> int:
        fd = os.open(f"/proc/{victim}/ns/uts", os.O_RDONLY)
        assert call("unshare", CLONE_NEWUTS) == 0
        assert call("setns", fd, CLONE_NEWUTS) == 0
        return fd

    child = watch.act(act)
    assert child.event("unshare").flags == CLONE_NEWUTS
    setns = child.event("setns")
    assert (setns.num, setns.flags, setns.ret) == (child.result, CLONE_NEWUTS, 0)


def test_changes_of_user_and_group(watch: Watch):
    def act() -> int:
        os.setgroups([7])
        os.setresgid(1234, 1234, 1234)
        os.setuid(4321)
        return call("setuid", 0)

    child = watch.act(act)
    assert child.result == -1
    events = {(e.op, e.ret): e for e in child.events("setid")}
    assert set(events) == {("setgroups", 0), ("setresgid", 0), ("setuid", 0), ("setuid", -1)}
    done = events["setuid", 0]
    assert (done.num, done.flags) == (4321, 4321)
    assert (done.num2 >> 32, done.num2 & 0xFFFFFFFF) == (4321, 1234)
    assert events["setuid", -1].num == 0


def test_capset(watch: Watch):
    def act() -> None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        kept = 1 << 21 | 1 << 5  # CAP_SYS_ADMIN, CAP_KILL
        data = (ctypes.c_uint32 * 6)(1 << 5, kept, 0, 0, 0, 0)
        assert call("capset", header, data) == 0

    event = at_least_one(watch, act, "capset")
    assert (event.num, event.num2, event.ret) == (1 << 5, 1 << 21 | 1 << 5, 0)


def test_bpf(watch: Watch):
    def act() -> list[int]:
        code = (ctypes.c_uint64 * 2)(0x00000000_000000B7, 0x95)  # r0 = 0; exit
        licence = ctypes.create_string_buffer(b"GPL")
        load = (ctypes.c_uint64 * 16)()
        load[0] = 1 | 2 << 32  # socket filter, two instructions
        load[1], load[2] = ctypes.addressof(code), ctypes.addressof(licence)
        made = (ctypes.c_uint32 * 16)(2, 4, 8, 1)  # array
        return [call("bpf", 5, load, 48), call("bpf", 0, made, 48), call("bpf", 11, made, 12)]

    child = watch.act(act)
    assert [e.num for e in child.events("bpf")] == [5, 0], "walks over ids are left out"
    assert [e.ret for e in child.events("bpf")] == child.result[:2]


def test_perf_event_open(watch: Watch):
    def act() -> int:
        attributes = (ctypes.c_uint32 * 32)(1, 128)  # PERF_TYPE_SOFTWARE
        return call("perf_event_open", attributes, os.getpid(), -1, -1, 8)

    child = watch.act(act)
    event = child.event("perf_event_open")
    assert (event.num2, event.flags, event.ret) == (child.pid, 8, child.result)


def test_memfd_userfaultfd_keyctl(watch: Watch):
    def act() -> list[int]:
        return [
            os.memfd_create("scratch \x1b[1m", os.MFD_CLOEXEC),
            call("userfaultfd", 1),
            call("keyctl", 0, -3, 0),
            call("add_key", b"user", b"name", b"payload", 7, -1),
            call("request_key", b"user", b"missing", None, 0),
        ]

    child = watch.act(act)
    memfd = child.event("memfd")
    assert memfd.string.data == b"scratch \x1b[1m"
    assert (memfd.flags, memfd.ret) == (os.MFD_CLOEXEC, child.result[0])
    user = child.event("userfaultfd")
    assert (user.flags, user.ret) == (1, child.result[1])
    assert [(e.op, e.ret) for e in child.events("keyctl")] == [
        ("keyctl", child.result[2]),
        ("add_key", child.result[3]),
        ("request_key", child.result[4]),
    ]


def test_modules_and_kexec_are_told_even_when_they_fail(watch: Watch, tmp_path: Path):
    fake = tmp_path.resolve() / "fake.ko"
    fake.write_bytes(b"not a module")

    def act() -> list[int]:
        fd = os.open(fake, os.O_RDONLY)
        return [
            call("finit_module", fd, b"", 0),
            call("init_module", b"no module", 9, b""),
            call("delete_module", b"no_such_module", os.O_NONBLOCK),
            call("kexec_load", 0, 0, None, 1 << 30),
        ]

    child = watch.act(act)
    by_op = {e.op: e for e in child.events("module")}
    assert set(by_op) == {"finit_module", "init_module", "delete_module"}
    assert by_op["finit_module"].obj == str(fake)
    assert by_op["delete_module"].obj == "no_such_module"
    assert [by_op[n].ret for n in ("finit_module", "init_module", "delete_module")] == child.result[
        :3
    ]
    assert all(ret < 0 for ret in child.result)
    assert child.event("kexec").ret == child.result[3]


def test_sensitive_calls_are_told_outside_record_mode_too():
    watch = Watch(record=False)
    try:
        child = watch.act(lambda: call("unshare", CLONE_NEWUTS))
        assert child.event("unshare").flags == CLONE_NEWUTS
        assert not child.event("unshare").marks & Mark.STR_LOST
    finally:
        watch.close()


def test_signal_to_self_is_nothing_special(watch: Watch):
    def act() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGUSR1)

    vital = {e.cls for e in watch.act(act).events()} - {"open", "mmap"}
    assert vital == {"exit"}
