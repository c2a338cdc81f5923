"""The BPF programs in the kernel: chosen for the tier, loaded, wired up, attached.

Which program belongs to which tier is data (_ONLY_IF); which system call goes to which handler is
the table in syscalls.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from hullwatch.kernel.build import object_path
from hullwatch.sensor import libbpf
from hullwatch.sensor.syscalls import SOCKETCALLS, SYSCALLS, op_of
from hullwatch.sensor.tier import Tier, read_facts
from hullwatch.sensor.wire import FIXED, SETTINGS

__all__ = ["Programs", "RingSizes", "SensorError"]

_NATIVE_CALLS = 512  # kernel/syscall.h
_WHILE_LABELS = 0x8000  # the same


NO_TAP = 4096
"""Bytes of the tap's ring where nobody listens: its programs are not even loaded."""


class SensorError(RuntimeError):
    """The sensor cannot run here. The message says what is missing and how to mend it."""


class RingSizes(dict[str, int]):
    """Bytes of each ring, powers of two and whole pages. Small ones are for tests of overflow."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(
            {
                "vital": 4 << 20,
                "bulk": 8 << 20,
                "strings": 4 << 20,
                "procs": 4 << 20,
                "packets": 1 << 20,
                "tap": NO_TAP,
            }
            | sizes
        )


def _lsm_hook_exists(types: libbpf.KernelTypes, program: libbpf.Program) -> bool:
    return types.has_function("bpf_lsm_" + program.section.removeprefix("lsm/"))


# Program name -> does it fit this kernel? Programs not named here are always loaded.
_ONLY_IF: dict[str, Callable[[libbpf.KernelTypes], bool]] = {
    "uring_submit_req": lambda types: types.tracepoint_arguments("io_uring_submit_req") is not None,
    "uring_submit_sqe": lambda types: types.tracepoint_arguments("io_uring_submit_sqe") is not None,
    "uring_complete_3": lambda types: types.tracepoint_arguments("io_uring_complete") == 3,
    "process_exit_1": lambda types: types.tracepoint_arguments("sched_process_exit") == 1,
    "process_exit_2": lambda types: types.tracepoint_arguments("sched_process_exit") == 2,
    "uring_complete_7": lambda types: types.tracepoint_arguments("io_uring_complete") == 7,
}


def _host_mounts() -> int:
    """Inode of the mount namespace that containers are set up in."""
    for process in ("1", "self"):
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{process}/ns/mnt").st_ino
    return 0


_BY_ID = {"prog": 13, "map": 14, "link": 30}  # commands of bpf(2): include/uapi/linux/bpf.h
_OBJECT = re.compile(r"^(prog|map|link)_id:\s+(\d+)$", re.MULTILINE)


def _own_objects() -> Iterator[tuple[int, int]]:
    """What this process has of BPF: the command that asks for such, and its id."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            text = Path("/proc/self/fdinfo", fd).read_text()
            for kind, ident in _OBJECT.findall(text):
                yield _BY_ID[kind], int(ident)


class Programs:
    """Loads on construction; `attach()` starts the events; `close()` ends them.

    policy: False leaves out what asks policies. Raises SensorError where no tier works. When the
    LSM tier is refused, the tracepoint tier is taken and facts.reason says why.
    """

    def __init__(
        self,
        *,
        rings: RingSizes | None = None,
        tier: Tier | None = None,
        own_tgid: int | None = None,
        policy: bool = True,
    ) -> None:
        facts = read_facts()
        if facts.tier == Tier.NONE:
            raise SensorError(f"no BPF sensor here: {facts.reason}; {facts.mend}")
        self._own_tgid = os.getpid() if own_tgid is None else own_tgid
        self._rings = rings or RingSizes()
        self._policy = policy
        self._links: list[libbpf.Link] = []
        self.skipped: list[str] = []
        if tier is not None:
            facts = replace(facts, tier=tier, reason=f"tier {tier} asked for", mend="")
        try:
            self.object = self._load(facts.tier)
        except libbpf.BpfError as error:
            if facts.tier != Tier.LSM or tier is not None:
                raise SensorError(f"{error}\n{error.log[-2000:]}") from error
            why = os.strerror(error.errno) if error.errno else str(error)
            reason = f"the kernel refuses LSM programs: {why}"
            facts = replace(facts, tier=Tier.TRACEPOINT, reason=reason)
            try:
                self.object = self._load(facts.tier)
            except libbpf.BpfError as again:
                raise SensorError(f"{again}\n{again.log[-2000:]}") from again
        self.facts = facts
        self.settings = self.object.map(".data.settings").shared(SETTINGS)
        self.set(host_mnt=_host_mounts())
        self._wire_calls()

    def _load(self, tier: Tier) -> libbpf.Object:
        path = object_path(os.uname().machine)
        if not Path(path).exists():
            raise SensorError(
                f"{path.name} is not built: run `make bpf` (python -m hullwatch.kernel.build)"
            )
        loaded = libbpf.Object(path)
        types = libbpf.KernelTypes()
        try:
            self.skipped = []
            for name, program in loaded.programs.items():
                fits = True
                if program.section.startswith("lsm/"):
                    fits = tier == Tier.LSM and _lsm_hook_exists(types, program)
                elif name in _ONLY_IF:
                    fits = _ONLY_IF[name](types)
                elif name.startswith("tap_") or program.section in ("uprobe", "uretprobe"):
                    fits = self._rings["tap"] > NO_TAP
                if name.startswith("guard_") and not self._policy:
                    fits = False
                if not fits:
                    program.set_autoload(False)
                    self.skipped.append(name)
        finally:
            types.close()
        fixed = loaded.map(".rodata.fixed").initial(FIXED)
        fixed["hash_key"] = np.frombuffer(os.urandom(16), np.uint64)
        fixed["lsm_tier"] = tier == Tier.LSM
        fixed["own_tgid"] = self._own_tgid
        fixed["run"] = int.from_bytes(os.urandom(4), "little") >> 1
        loaded.map("scratches").set_max_entries(4 * (os.cpu_count() or 1))
        for ring, size in self._rings.items():
            loaded.map(ring).set_max_entries(size)
        try:
            loaded.load()
        except libbpf.BpfError:
            loaded.close()
            raise
        return loaded

    def _wire_calls(self) -> None:
        """Fill the dispatcher's tables: call number -> (op, handler), handler -> program."""
        slots: dict[str, int] = {}
        calls = self.object.map("calls")
        machine = "x86_64" if os.uname().machine == "x86_64" else "arm64"
        for op, row in enumerate(SYSCALLS):
            if not row.name:
                continue
            slot = slots.setdefault(row.handler, len(slots))
            quiet = _WHILE_LABELS if row.handler == "exit_data" else 0
            value = struct.pack("<HH", op, slot | quiet)
            number = getattr(row, machine)
            if number is not None:
                calls.update(struct.pack("<I", number), value)
            if machine == "x86_64" and row.ia32 is not None:
                calls.update(struct.pack("<I", _NATIVE_CALLS + row.ia32), value)
        for number, name in SOCKETCALLS.items() if machine == "x86_64" else ():
            handler = SYSCALLS[op_of(name)].handler
            quiet = _WHILE_LABELS if handler == "exit_data" else 0
            value = struct.pack("<HH", op_of(name), slots[handler] | quiet)
            calls.update(struct.pack("<I", 2 * _NATIVE_CALLS + number), value)
        handlers = self.object.map("handlers")
        for name, slot in slots.items():
            handlers.update(
                struct.pack("<I", slot), struct.pack("<I", self.object.programs[name].fd)
            )

    def attach(self) -> None:
        """Attach everything that was loaded, process events first."""
        cgroup_fd = os.open(self.facts.cgroup2, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, program in self.object.programs.items():
                if (
                    name in self.skipped
                    or name.startswith(("exit_", "tap_"))
                    or program.section in ("iter/task", "syscall", "uprobe", "uretprobe")
                ):
                    continue
                if program.section.startswith("cgroup"):
                    self._links.append(program.attach_cgroup(cgroup_fd))
                else:
                    self._links.append(program.attach())
        except libbpf.BpfError as error:
            self.close()
            raise SensorError(str(error)) from error
        finally:
            os.close(cgroup_fd)
        if self.facts.tier == Tier.LSM:
            own = self.object.map("guard_own")
            for command, ident in _own_objects():
                own.update(struct.pack("<II", command, ident), b"\1")

    def descriptors(self) -> dict[str, int]:
        """Of what has to be held for the programs to go on without us. The table of handlers is
        emptied when nobody holds it (kernel/bpf/arraymap.c, prog_array_map_clear)."""
        links = {link.name: link.fd for link in self._links if not link.name.startswith("tap_")}
        return links | {"handlers": self.object.map("handlers").fd}

    def attach_tap(self) -> None:
        """Attach what listens to reads and writes; BpfError where that cannot be, SensorError where
        it was not loaded (RingSizes: tap)."""
        if "tap_exit" in self.skipped:
            raise SensorError("the tap was not loaded: its ring has no size")
        self._links.append(self.object.programs["tap_exit"].attach())

    def snapshot(self) -> None:
        """Have the kernel report every process there is."""
        self.object.programs["snapshot"].run_iterator()

    def set(self, **values: int) -> None:
        """Write settings, e.g. set(record_mode=1)."""
        for name, value in values.items():
            self.settings[name] = np.uint32(value)

    def detach(self) -> None:
        """End the events; what the rings hold can still be read."""
        for link in reversed(self._links):
            link.close()
        self._links.clear()

    def close(self) -> None:
        self.detach()
        self.object.close()
