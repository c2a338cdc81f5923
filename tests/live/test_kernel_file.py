"""What the kernel says of files: each call once, with the path that the kernel itself has for it.

Both tiers are held to one text. Where they differ by design, `result` and `by_name` say so: an LSM
hook runs before the result is known, and the tracepoint tier has only the caller's text for calls
that leave no file descriptor behind.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import stat
from pathlib import Path

import pytest

from hullwatch.sensor.wire import Mark
from support.runc import Runc
from support.scratch import mount
from support.watch import Child, Event, Watch, call

pytestmark = pytest.mark.scenario

AT_FDCWD = -100
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's files lie, by the kernel's own path."""
    return tmp_path.resolve()


def result(watch: Watch, event: Event, ret: int) -> None:
    """The event tells the result, or that it could not know it."""
    if watch.lsm:
        assert event.marks & Mark.ATTEMPT
    else:
        assert not event.marks & Mark.ATTEMPT
        assert event.ret == ret


def by_name(watch: Watch, event: Event) -> None:
    """The event is about a name: a text in the tracepoint tier, a path in the LSM tier."""
    assert bool(event.marks & Mark.RAW_PATH) == (not watch.lsm)


def opened(child: Child, path: Path | str, **fields: object) -> Event:
    return child.event("open", obj=str(path), **fields)


# -- opens ------------------------------------------------------------------------------------


def test_open_to_read_write_and_create(watch: Watch, folder: Path):
    there, new = folder / "there", folder / "new"
    there.write_text("x")

    def act() -> list[int]:
        reading = os.open(there, os.O_RDONLY)
        os.close(reading)
        writing = os.open(there, os.O_RDWR | os.O_APPEND)
        os.close(writing)
        made = os.open(new, os.O_WRONLY | os.O_CREAT, 0o600)
        return [reading, writing, made, os.fstat(made).st_ino, os.fstat(made).st_dev]

    child = watch.act(act)
    reading, writing, made, inode, device = child.result
    first, second = child.events("open", obj=str(there))
    assert first.flags & os.O_ACCMODE == os.O_RDONLY
    assert second.flags & os.O_ACCMODE == os.O_RDWR and second.flags & os.O_APPEND
    result(watch, first, reading)
    result(watch, second, writing)
    third = opened(child, new)
    result(watch, third, made)
    assert third.marks & Mark.CREATED and not first.marks & Mark.CREATED
    assert third.flags & os.O_CREAT
    assert (third.num, third.op) == (inode, "openat")
    assert (os.major(device), os.minor(device)) == (third.num2 >> 20, third.num2 & 0xFFFFF)
    for event in (first, second, third):
        assert not event.marks & (Mark.RAW_PATH | Mark.DEVICE | Mark.DIR | Mark.STR_LOST)


def test_failed_opens(watch: Watch, folder: Path):
    def act() -> list[int]:
        os.chdir(folder)
        return [
            call("openat", AT_FDCWD, b"missing", os.O_RDONLY),
            call("openat", AT_FDCWD, b"/no/such/place", os.O_WRONLY | os.O_CREAT, 0o600),
            call("openat", 1 << 20, b"relative", os.O_RDONLY),
            call("openat", AT_FDCWD, ctypes.c_void_p(8), os.O_RDONLY),
            call("openat", AT_FDCWD, b"", os.O_RDONLY),
        ]

    child = watch.act(act)
    assert child.result == [-2, -2, -9, -14, -2]
    missing = opened(child, folder / "missing")
    assert missing.ret == -2 and missing.marks & Mark.RAW_PATH
    assert missing.obj2 == "missing"
    write = opened(child, "/no/such/place")
    assert write.ret == -2 and write.flags & os.O_CREAT
    bad_fd = child.event("open", ret=-9)
    assert bad_fd.obj2 == "relative"
    assert child.event("open", ret=-14).marks & Mark.UNREADABLE
    empty = child.event("open", ret=-2, obj=f"{folder}/")
    assert not empty.marks & Mark.STR_LOST


def test_other_ways_to_open(watch: Watch, folder: Path):
    path = folder / "file"
    path.write_text("x")
    how = (ctypes.c_uint64 * 3)(os.O_RDONLY, 0, 0)

    def act() -> list[int]:
        done = [call("openat2", AT_FDCWD, bytes(path), how, 24)]
        if os.uname().machine == "x86_64":
            done += [call("open", bytes(path), os.O_RDONLY), call("creat", bytes(path), 0o600)]
        return done

    child = watch.act(act)
    assert all(fd >= 0 for fd in child.result)
    events = child.events("open", obj=str(path))
    assert [e.op for e in events] == ["openat2", "open", "creat"][: len(child.result)]
    for event, fd in zip(events, child.result, strict=True):
        result(watch, event, fd)


def test_relative_open_through_a_directory_descriptor(watch: Watch, folder: Path):
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("x")

    def act() -> None:
        directory = os.open(folder / "sub", os.O_RDONLY | os.O_DIRECTORY)
        os.open("file", os.O_RDONLY, dir_fd=directory)

    child = watch.act(act)
    assert opened(child, folder / "sub").marks & Mark.DIR
    opened(child, folder / "sub" / "file")


def test_symlinks_and_dots_are_resolved(watch: Watch, folder: Path):
    (folder / "real").mkdir()
    (folder / "real" / "file").write_text("x")
    (folder / "link").symlink_to("real")
    (folder / "second").symlink_to("link/file")

    def act() -> None:
        for name in ("link/file", "second", "real/../link/./file", "real//file"):
            os.open(folder / name if ".." not in name else f"{folder}/{name}", os.O_RDONLY)

    child = watch.act(act)
    events = child.events("open", obj=str(folder / "real" / "file"))
    assert len(events) == 4
    if not watch.lsm:
        assert {e.obj2 for e in events} >= {f"{folder}/second", f"{folder}/real/../link/./file"}


def test_hard_link_shows_the_name_that_was_used(watch: Watch, folder: Path):
    (folder / "one").write_text("x")
    os.link(folder / "one", folder / "two")
    child = watch.act(lambda: [os.open(folder / n, os.O_RDONLY) for n in ("one", "two")])
    assert opened(child, folder / "one").num == opened(child, folder / "two").num


def test_open_below_a_renamed_directory_shows_the_new_path(watch: Watch, folder: Path):
    (folder / "before" / "deep").mkdir(parents=True)
    (folder / "before" / "deep" / "file").write_text("x")

    def act() -> None:
        for name in ("before", "after", "again"):
            for _ in range(3):
                os.close(os.open(folder / name / "deep" / "file", os.O_RDONLY))
            if name != "again":
                os.rename(folder / name, folder / {"before": "after", "after": "again"}[name])

    child = watch.act(act)
    names = [e.obj for e in child.events("open") if e.obj.endswith("/deep/file")]
    assert names == [f"{folder}/{n}/deep/file" for n in ("before", "after", "again") for _ in "123"]


def test_deleted_and_made_again(watch: Watch, folder: Path):
    path = folder / "file"

    def act() -> list[int]:
        inodes = []
        for _ in range(5):
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            inodes.append(os.fstat(fd).st_ino)
            os.close(fd)
            path.unlink()
        return inodes

    child = watch.act(act)
    events = child.events("open", obj=str(path))
    assert [e.num for e in events] == child.result
    assert all(e.marks & Mark.CREATED for e in events)
    assert len(child.events("unlink", obj=str(path))) == 5


def test_one_name_after_another_in_one_directory(watch: Watch, folder: Path):
    """Dentries are reused: what is known of one must never be told of another."""
    names = [f"file-{i:03}" for i in range(300)]

    def act() -> None:
        for name in names:
            os.close(os.open(folder / name, os.O_WRONLY | os.O_CREAT))
            (folder / name).unlink()

    child = watch.act(act)
    seen = [e.obj for e in child.events("open") if e.obj.startswith(f"{folder}/")]
    assert seen == [f"{folder}/{name}" for name in names]


def test_unlinked_and_unnamed_files(watch: Watch, folder: Path):
    path = folder / "file"
    path.write_text("x")

    def act() -> None:
        fd = os.open(path, os.O_RDONLY)
        path.unlink()
        os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        try:
            os.open(folder, os.O_WRONLY | os.O_TMPFILE)
        except OSError:
            return

    child = watch.act(act)
    first, second = child.events("open", obj=str(path))
    assert not first.marks & Mark.UNLINKED
    assert second.marks & Mark.UNLINKED


def test_devices_and_other_kinds(watch: Watch, folder: Path):
    fifo = folder / "fifo"
    os.mkfifo(fifo)

    def act() -> None:
        os.open("/dev/null", os.O_RDWR)
        os.open(fifo, os.O_RDWR)

    child = watch.act(act)
    null = opened(child, "/dev/null", flags=child.events("open", obj="/dev/null")[-1].flags)
    assert null.marks & Mark.DEVICE
    assert (null.num2 >> 20, null.num2 & 0xFFFFF) == (1, 3)
    assert opened(child, fifo).marks & Mark.NOT_REGULAR


def test_bind_mount_shows_the_path_that_was_used(watch: Watch, folder: Path):
    (folder / "source").mkdir()
    (folder / "source" / "file").write_text("x")
    (folder / "target").mkdir()

    def act() -> None:
        assert call("unshare", CLONE_NEWNS) == 0
        mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
        mount(str(folder / "source"), folder / "target", "", MS_BIND)
        os.open(folder / "source" / "file", os.O_RDONLY)
        os.open(folder / "target" / "file", os.O_RDONLY)

    child = watch.act(act)
    source, target = (opened(child, folder / n / "file") for n in ("source", "target"))
    assert source.num == target.num


def test_moved_mount_shows_the_new_path(watch: Watch, folder: Path):
    (folder / "one").mkdir()
    (folder / "two").mkdir()

    def act() -> None:
        assert call("unshare", CLONE_NEWNS) == 0
        mount("none", Path("/"), "", MS_REC | MS_PRIVATE)
        mount("none", folder / "one", "tmpfs")
        os.open(folder / "one" / "file", os.O_RDWR | os.O_CREAT)
        mount(str(folder / "one"), folder / "two", "", 8192)  # MS_MOVE
        os.open(folder / "two" / "file", os.O_RDWR)

    child = watch.act(act)
    assert opened(child, folder / "one" / "file").num == opened(child, folder / "two" / "file").num


def test_hostile_names(watch: Watch, folder: Path):
    names = [
        b"new\nline",
        b"\x1b[31mred\x1b[0m",
        b"\xff\xfe\x80",
        b"sp ace\t",
        b"n" * 255,
        b"\xe2\x80\xae",
    ]

    def act() -> None:
        for name in names:
            os.close(os.open(bytes(folder) + b"/" + name, os.O_WRONLY | os.O_CREAT))

    child = watch.act(act)
    seen = [e.string.data for e in child.events("open", op="openat")]
    for name in names:
        assert bytes(folder) + b"/" + name in seen


def test_two_names_made_to_look_alike_are_two(watch: Watch, folder: Path):
    """Whoever can choose both must not have one told by the other's name: these differ in the top
    bit of a word of the path, and in two bits of the next that would make up for it."""
    at = -len(os.fsencode(folder) + b"/") % 8
    one = bytearray(b"n" * (at + 16))
    other = bytearray(one)
    for byte, bits in ((7, 0x80), (12, 0x04), (15, 0x80)):
        other[at + byte] ^= bits
    paths = [os.fsencode(folder) + b"/" + bytes(name) for name in (one, other)]

    def act() -> None:
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

    child = watch.act(act)
    seen = [event.string.data for event in child.events("open", op="openat")]
    assert set(paths) <= set(seen)


@pytest.mark.parametrize("levels", [14, 15, 40])
def test_very_long_paths(watch: Watch, folder: Path, levels: int):
    """A path of up to 4096 bytes is whole; of a longer one the end is kept, and its length told."""
    name = "d" * 255

    def act() -> None:
        os.chdir(folder)
        for _ in range(levels):
            os.mkdir(name)
            os.chdir(name)
        os.close(os.open("leaf", os.O_WRONLY | os.O_CREAT))
        os.rename("leaf", "renamed")
        os.unlink("renamed")
        for _ in range(levels):
            os.chdir("..")
            os.rmdir(name)

    child = watch.act(act)
    whole = bytes(folder) + f"/{name}".encode() * levels + b"/leaf"
    leaf = next(e for e in child.events("open") if e.string.data.endswith(b"/leaf"))
    assert leaf.string.orig_len == len(whole)
    if len(whole) <= 4096:
        assert leaf.string.data == whole
        assert not leaf.string.marks & Mark.TRUNCATED
    else:
        assert leaf.string.marks & Mark.TRUNCATED
        assert whole.endswith(leaf.string.data)
        assert len(leaf.string.data) > 4096 - 257
    renamed = child.event("rename")
    assert renamed.string.data.endswith(b"/leaf") and renamed.string2.data.endswith(b"/renamed")
    assert renamed.string2.orig_len == len(whole) + 3
    assert child.event("unlink").string.orig_len == len(whole) + 3
    assert len(child.events("mkdir")) == len(child.events("rmdir")) == levels


# -- calls on names ---------------------------------------------------------------------------


def test_rename_link_symlink_unlink(watch: Watch, folder: Path):
    (folder / "a").write_text("x")

    def act() -> None:
        os.chdir(folder)
        os.rename("a", "b")
        os.link("b", "c")
        os.symlink("../somewhere", "d")
        os.unlink("c")

    child = watch.act(act)
    at = str(folder)
    rename, link = child.event("rename"), child.event("link")
    symlink, unlink = child.event("symlink"), child.event("unlink")
    assert (rename.obj, rename.obj2) == (f"{at}/a", f"{at}/b")
    assert (link.obj, link.obj2) == (f"{at}/b", f"{at}/c")
    assert (symlink.obj, symlink.obj2) == ("../somewhere", f"{at}/d")
    assert unlink.obj == f"{at}/c"
    for event in (rename, link, symlink, unlink):
        result(watch, event, 0)
        by_name(watch, event)


def test_failed_calls_on_names_tell_why(watch: Watch, folder: Path):
    def act() -> None:
        os.chdir(folder)
        for attempt in (
            lambda: os.rename("no", "where"),
            lambda: os.unlink("no"),
            lambda: os.rmdir("no"),
            lambda: os.chmod("no", 0o600),
            lambda: os.mkdir("no/where"),
            lambda: os.link("no", "where"),
        ):
            try:
                attempt()
            except FileNotFoundError:
                continue
            raise AssertionError("it worked")

    child = watch.act(act)
    for cls in ("rename", "unlink", "rmdir", "chmod", "mkdir", "link"):
        event = child.event(cls, ret=-2)
        assert event.obj.startswith(str(folder))
        assert event.marks & Mark.RAW_PATH


def test_mkdir_rmdir_chmod_chown_truncate(watch: Watch, folder: Path):
    path = folder / "file"
    path.write_text("x")

    def act() -> None:
        os.chdir(folder)
        os.mkdir("dir", 0o750)
        os.rmdir("dir")
        os.chmod("file", 0o4711)
        os.chown("file", 12, 34)
        os.truncate("file", 0)

    child = watch.act(act)
    made, removed = child.event("mkdir"), child.event("rmdir")
    mode, owner = child.event("chmod"), child.event("chown")
    cut = opened(child, path)
    assert made.obj == removed.obj == str(folder / "dir")
    assert mode.obj == owner.obj == str(path)
    assert made.flags & 0o7777 == 0o750
    assert mode.flags & 0o7777 == 0o4711
    assert (owner.num, owner.num2) == (12, 34)
    assert cut.flags & os.O_TRUNC and cut.flags & os.O_ACCMODE == os.O_WRONLY
    assert cut.op == "truncate"
    for event in (made, removed, mode, owner, cut):
        result(watch, event, 0)
        by_name(watch, event)


def test_calls_on_descriptors_have_the_kernels_path(watch: Watch, folder: Path):
    path = folder / "file"
    path.write_text("x")
    (folder / "link").symlink_to(path)

    def act() -> None:
        fd = os.open(folder / "link", os.O_RDWR)
        os.fchmod(fd, 0o640)
        os.fchown(fd, 1, 2)

    child = watch.act(act)
    mode, owner = child.event("chmod"), child.event("chown")
    assert mode.obj == owner.obj == str(path)
    assert mode.flags & 0o7777 == 0o640
    assert (owner.num, owner.num2) == (1, 2)
    assert not mode.marks & Mark.RAW_PATH


def test_names_relative_to_a_descriptor(watch: Watch, folder: Path):
    (folder / "sub").mkdir()

    def act() -> None:
        fd = os.open(folder / "sub", os.O_RDONLY)
        os.mkdir("x", dir_fd=fd)
        os.rename("x", "y", src_dir_fd=fd, dst_dir_fd=fd)
        os.rmdir("y", dir_fd=fd)

    child = watch.act(act)
    assert child.event("mkdir").obj == str(folder / "sub" / "x")
    assert child.event("rename").obj2 == str(folder / "sub" / "y")
    assert child.event("rmdir").obj == str(folder / "sub" / "y")


# -- code -------------------------------------------------------------------------------------


def test_mapping_a_file_to_run_it(watch: Watch, folder: Path):
    path = folder / "library"
    path.write_bytes(b"\xc3" * 4096)

    def act() -> None:
        with open(path, "rb") as file:
            mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
            mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)

    event = watch.act(act).event("mmap", obj=str(path))
    assert event.flags == mmap.PROT_READ | mmap.PROT_EXEC
    assert event.num == 4096


def test_memory_writable_and_executable_at_once(watch: Watch):
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC

    def act() -> None:
        mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, everything)
        memory = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert call("mprotect", address, 4096, everything) == 0
        assert call("mprotect", address, 4096, mmap.PROT_READ | mmap.PROT_EXEC) == 0

    child = watch.act(act)
    mapped, changed = child.events("mprotect")
    assert (mapped.op, mapped.num, mapped.flags) == ("mmap", 8192, everything)
    assert (changed.op, changed.num, changed.flags) == ("mprotect", 4096, everything)


# -- containers -------------------------------------------------------------------------------


def test_paths_in_a_container_are_the_containers(watch: Watch, runc: Runc):
    container = runc.start(
        ["sh", "-c", "echo x > /tmp/made; cat /etc/passwd > /dev/null; rm /tmp/made; sleep 99"],
        name="files",
    )
    cgroup = container.cgroup_id()
    made = watch.expect("open", obj="/tmp/made", cgroup=cgroup)
    assert made.marks & Mark.CREATED
    watch.expect("open", obj="/etc/passwd", cgroup=cgroup)
    watch.expect("unlink", obj="/tmp/made", cgroup=cgroup)
    backing = [
        e for e in watch.find("open", cgroup=cgroup) if str(container.bundle.folder) in e.obj
    ]
    inside = [e for e in backing if e.ts >= made.ts]
    assert not inside, "overlayfs opening its own layers is not the container's doing"


def test_unix_socket_is_no_file_open(watch: Watch, folder: Path):
    path = folder / "socket"

    def act() -> int:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        return stat.S_IFMT(os.stat(path).st_mode)

    child = watch.act(act)
    assert child.result == stat.S_IFSOCK
    assert child.event("bind").obj == str(path)
    assert not child.events("open", obj=str(path))
