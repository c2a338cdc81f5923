"""libbpf, as far as the sensor needs it, through ctypes.

Thin: one class an object of the library, errors as OSError with what failed. API reference:
libbpf 1.1 (Debian 12) headers bpf/libbpf.h and bpf/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BpfError", "KernelTypes", "Link", "Map", "Object", "Program"]


class BpfError(OSError):
    """A libbpf call failed. log holds the verifier's words where there are any."""

    def __init__(self, code: int, what: str, log: str = "") -> None:
        super().__init__(code, f"{what}: {os.strerror(code)}")
        self.log = log


def _load() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise BpfError(2, "libbpf.so.1 not found (Debian: apt-get install libbpf1)") from error
    for name, result, arguments in (
        ("bpf_object__open_file", c_void_p, [c_char_p, c_void_p]),
        ("bpf_object__load", c_int, [c_void_p]),
        ("bpf_object__close", None, [c_void_p]),
        ("bpf_object__find_map_by_name", c_void_p, [c_void_p, c_char_p]),
        ("bpf_object__next_program", c_void_p, [c_void_p, c_void_p]),
        ("bpf_program__name", c_char_p, [c_void_p]),
        ("bpf_program__section_name", c_char_p, [c_void_p]),
        ("bpf_program__set_autoload", c_int, [c_void_p, ctypes.c_bool]),
        ("bpf_program__fd", c_int, [c_void_p]),
        ("bpf_program__attach", c_void_p, [c_void_p]),
        ("bpf_program__attach_cgroup", c_void_p, [c_void_p, c_int]),
        ("bpf_program__attach_iter", c_void_p, [c_void_p, c_void_p]),
        (
            "bpf_program__attach_uprobe",
            c_void_p,
            [c_void_p, ctypes.c_bool, c_int, c_char_p, c_size_t],
        ),
        ("bpf_iter_create", c_int, [c_int]),
        ("bpf_prog_test_run_opts", c_int, [c_int, c_void_p]),
        ("bpf_link__fd", c_int, [c_void_p]),
        ("bpf_link__destroy", c_int, [c_void_p]),
        ("bpf_map__fd", c_int, [c_void_p]),
        ("bpf_map__set_max_entries", c_int, [c_void_p, c_uint32]),
        ("bpf_map__max_entries", c_uint32, [c_void_p]),
        ("bpf_map__key_size", c_uint32, [c_void_p]),
        ("bpf_map__value_size", c_uint32, [c_void_p]),
        ("bpf_map__initial_value", c_void_p, [c_void_p, ctypes.POINTER(c_size_t)]),
        ("bpf_obj_pin", c_int, [c_int, c_char_p]),
        ("bpf_map_update_elem", c_int, [c_int, c_void_p, c_void_p, c_uint64]),
        ("bpf_map_lookup_elem", c_int, [c_int, c_void_p, c_void_p]),
        ("bpf_map_delete_elem", c_int, [c_int, c_void_p]),
        ("bpf_map_lookup_and_delete_elem", c_int, [c_int, c_void_p, c_void_p]),
        ("bpf_map_lookup_batch", c_int, [c_int] + [c_void_p] * 6),
        ("bpf_map_get_next_key", c_int, [c_int, c_void_p, c_void_p]),
        ("btf__load_vmlinux_btf", c_void_p, []),
        ("btf__free", None, [c_void_p]),
        ("btf__find_by_name_kind", c_int, [c_void_p, c_char_p, c_uint32]),
        ("btf__type_by_id", c_void_p, [c_void_p, c_uint32]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


_lib: Any = None
_print: Any = None
_said: list[str] = []


def lib() -> Any:
    """The library, loaded once. What it prints is kept for error messages."""
    global _lib, _print
    if _lib is None:
        _lib = _load()
        kind = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
        libc = ctypes.CDLL(None)

        def keep(level: int, fmt: bytes, args: int | None) -> int:
            if level > 1:
                return 0
            text = c_char_p()
            if libc.vasprintf(ctypes.byref(text), c_char_p(fmt), c_void_p(args)) < 0:
                return 0
            # A verifier log runs to megabytes; its end says why.
            _said.append((text.value or b"").decode("utf-8", "replace")[-16384:])
            libc.free(text)
            del _said[:-50]
            return 0

        _print = kind(keep)
        _lib.libbpf_set_print(_print)
    return _lib


def _check(pointer: int | None, what: str) -> int:
    if not pointer:
        raise BpfError(ctypes.get_errno() or 22, what, "".join(_said))
    return pointer


def _check_code(code: int, what: str) -> int:
    if code < 0:
        raise BpfError(-code if code != -1 else ctypes.get_errno() or 1, what, "".join(_said))
    return code


class Link:
    """An attached program; detached by close() or when the process ends."""

    def __init__(self, pointer: int, name: str) -> None:
        self._pointer: int | None = pointer
        self.name = name

    @property
    def fd(self) -> int:
        return int(lib().bpf_link__fd(self._pointer))

    def close(self) -> None:
        if self._pointer:
            lib().bpf_link__destroy(self._pointer)
            self._pointer = None


class Program:
    def __init__(self, pointer: int) -> None:
        self._pointer = pointer
        self.name: str = lib().bpf_program__name(pointer).decode()
        self.section: str = lib().bpf_program__section_name(pointer).decode()

    def set_autoload(self, load: bool) -> None:
        _check_code(lib().bpf_program__set_autoload(self._pointer, load), self.name)

    @property
    def fd(self) -> int:
        return _check_code(lib().bpf_program__fd(self._pointer), self.name)

    def attach(self) -> Link:
        what = f"attach {self.name} ({self.section})"
        return Link(_check(lib().bpf_program__attach(self._pointer), what), self.name)

    def attach_cgroup(self, cgroup_fd: int) -> Link:
        what = f"attach {self.name} ({self.section})"
        pointer = lib().bpf_program__attach_cgroup(self._pointer, cgroup_fd)
        return Link(_check(pointer, what), self.name)

    def attach_uprobe(self, path: str, offset: int, at_return: bool, pid: int = -1) -> Link:
        """At an offset into a file, in every process that maps it (pid -1), now or later.

        The probe is on the file, not on its name: /proc/self/fd/N does, and may be closed then.
        """
        what = f"attach {self.name} ({path}+{offset:#x})"
        pointer = lib().bpf_program__attach_uprobe(
            self._pointer, at_return, pid, os.fsencode(path), offset
        )
        return Link(_check(pointer, what), self.name)

    def run(self, context: bytes) -> int:
        """Run a program of section `syscall` once with this context; what it returned."""
        given = ctypes.create_string_buffer(context, len(context))
        options = _RunOptions(sz=ctypes.sizeof(_RunOptions))
        options.ctx_in, options.ctx_size_in = ctypes.addressof(given), len(context)
        code = lib().bpf_prog_test_run_opts(self.fd, ctypes.byref(options))
        _check_code(code, f"run {self.name}")
        return c_int(options.retval).value

    def run_iterator(self) -> None:
        """Attach as an iterator, read it to its end, detach."""
        what = f"iterate {self.name}"
        link = Link(_check(lib().bpf_program__attach_iter(self._pointer, None), what), self.name)
        try:
            fd = _check_code(lib().bpf_iter_create(link.fd), what)
            try:
                while os.read(fd, 4096):
                    pass
            finally:
                os.close(fd)
        finally:
            link.close()


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts (bpf/bpf.h)."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class Map:
    """A map by name. Keys and values are numpy scalars or bytes of the map's own sizes."""

    def __init__(self, pointer: int, name: str) -> None:
        self._pointer = pointer
        self.name = name
        self.key_size: int = lib().bpf_map__key_size(pointer)
        self.value_size: int = lib().bpf_map__value_size(pointer)

    @property
    def fd(self) -> int:
        return int(lib().bpf_map__fd(self._pointer))

    @property
    def max_entries(self) -> int:
        return int(lib().bpf_map__max_entries(self._pointer))

    def set_max_entries(self, count: int) -> None:
        _check_code(lib().bpf_map__set_max_entries(self._pointer, count), f"size of {self.name}")

    def shared(self, dtype: np.dtype[Any]) -> np.ndarray:
        """A data section of the loaded programs as an array of shape (1,), shared with them."""
        memory = mmap.mmap(
            self.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        return np.frombuffer(memory, dtype=dtype, count=1)

    def initial(self, dtype: np.dtype[Any]) -> np.ndarray:
        """What a data section will hold at load, as an array of shape (1,)."""
        size = c_size_t()
        pointer = _check(lib().bpf_map__initial_value(self._pointer, ctypes.byref(size)), self.name)
        raw: Any = (ctypes.c_char * size.value).from_address(pointer)
        return np.frombuffer(raw, dtype=dtype, count=1)

    def update(self, key: bytes, value: bytes) -> None:
        _check_code(lib().bpf_map_update_elem(self.fd, key, value, 0), f"update {self.name}")

    def add(self, key: bytes, value: bytes) -> bool:
        """Update only if the key is not there (BPF_NOEXIST); False if it is."""
        code = lib().bpf_map_update_elem(self.fd, key, value, 1)
        if code == -errno.EEXIST:
            return False
        _check_code(code, f"add to {self.name}")
        return True

    def table(self, key: np.dtype[Any], value: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
        """All entries of a hash map as (key[n], value[n]): a few system calls, not one an entry."""
        room = 16384
        keys, values = np.empty(room, key), np.empty(room, value)
        at, following = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        first = True
        for _ in range(self.max_entries // 1024 + 64):
            count = c_uint32(room)
            code = lib().bpf_map_lookup_batch(
                self.fd,
                None if first else at,
                following,
                keys.ctypes.data,
                values.ctypes.data,
                ctypes.byref(count),
                None,
            )
            if code not in (0, -errno.ENOENT):
                _check_code(code, f"read {self.name}")
            parts.append((keys[: count.value].copy(), values[: count.value].copy()))
            if code == -errno.ENOENT:  # that was the last
                break
            first = False
            at, following = following, at
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def lookup(self, key: bytes) -> bytes | None:
        room = ctypes.create_string_buffer(self.value_size)
        return room.raw if lib().bpf_map_lookup_elem(self.fd, key, room) == 0 else None

    def take(self, key: bytes) -> bytes | None:
        """Look up and delete in one step; hash maps can since Linux 5.14 (3e87f192b405)."""
        room = ctypes.create_string_buffer(self.value_size)
        return room.raw if lib().bpf_map_lookup_and_delete_elem(self.fd, key, room) == 0 else None

    def delete(self, key: bytes) -> bool:
        return bool(lib().bpf_map_delete_elem(self.fd, key) == 0)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries; ones added or removed meanwhile may be missed, none is given twice in a
        row for ever (bounded by max_entries)."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        for _ in range(self.max_entries + 1):
            if lib().bpf_map_get_next_key(self.fd, key, following) != 0:
                return
            key = following.raw
            value = self.lookup(key)
            if value is not None:
                yield key, value


class Object:
    """A BPF object file: open, adjust, load, attach. Closing detaches nothing by itself."""

    def __init__(self, path: Path) -> None:
        _said.clear()
        what = f"open {path}"
        self._pointer: int | None = _check(
            lib().bpf_object__open_file(str(path).encode(), None), what
        )
        self.programs: dict[str, Program] = {}
        pointer = lib().bpf_object__next_program(self._pointer, None)
        while pointer:
            program = Program(pointer)
            self.programs[program.name] = program
            pointer = lib().bpf_object__next_program(self._pointer, pointer)

    def map(self, name: str) -> Map:
        pointer = lib().bpf_object__find_map_by_name(self._pointer, name.encode())
        return Map(_check(pointer, f"map {name}"), name)

    def load(self) -> None:
        _said.clear()
        _check_code(lib().bpf_object__load(self._pointer), "load the BPF programs")

    def close(self) -> None:
        if self._pointer:
            lib().bpf_object__close(self._pointer)
            self._pointer = None


class KernelTypes:
    """The running kernel's BTF, asked for what cannot be tried."""

    _KIND_TYPEDEF, _KIND_FUNC = 8, 12

    def __init__(self) -> None:
        self._pointer = _check(lib().btf__load_vmlinux_btf(), "/sys/kernel/btf/vmlinux")

    def close(self) -> None:
        lib().btf__free(self._pointer)

    def _type(self, ident: int) -> tuple[int, int]:
        """(info, type or size) of struct btf_type, see include/uapi/linux/btf.h."""
        pointer = _check(lib().btf__type_by_id(self._pointer, ident), f"type {ident}")
        words = (c_uint32 * 3).from_address(pointer)
        return words[1], words[2]

    def tracepoint_arguments(self, name: str) -> int | None:
        """How many arguments raw tracepoint `name` has; None if the kernel lacks it."""
        ident = lib().btf__find_by_name_kind(
            self._pointer, f"btf_trace_{name}".encode(), self._KIND_TYPEDEF
        )
        if ident <= 0:
            return None
        _, pointer_type = self._type(ident)
        _, proto = self._type(pointer_type)
        info, _ = self._type(proto)
        return (info & 0xFFFF) - 1

    def has_function(self, name: str) -> bool:
        ident = lib().btf__find_by_name_kind(self._pointer, name.encode(), self._KIND_FUNC)
        return bool(ident > 0)
