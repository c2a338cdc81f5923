"""Numbers of the kernel as Falco writes them: flags, modes, errors, capabilities.

Spelling and order after driver/flags_table.c and libscap/ppm_sc of falcosecurity/libs; values
from the kernel's uapi headers (x86-64 and arm64 agree for all that are listed here, but for
O_DIRECTORY and its neighbours, where arm64 differs: `OPEN_FLAGS` is chosen by machine).
"""

from __future__ import annotations

import errno
import platform
import signal
from collections.abc import Iterable

__all__ = [
    *("BPF_COMMANDS", "CLONE_FLAGS", "FAMILIES", "MMAP_PROT", "MODE_BITS", "MOUNT_FLAGS"),
    *("NAMESPACES", "OPEN_FLAGS", "PTRACE", "SOCKET_TYPES", "UMOUNT_FLAGS", "UNLINK_FLAGS"),
    *("MEMFD_FLAGS", "RENAME_FLAGS", "capabilities", "errno_name", "joined", "open_flags"),
]

Table = tuple[tuple[int, str], ...]


def joined(value: int, table: Table, *, none: str = "0") -> str:
    """The names of the bits in value, joined by '|'; `none` where no bit has a name."""
    return "|".join(name for bit, name in table if value & bit == bit and bit) or none


_ARM = platform.machine() in ("aarch64", "arm64")
OPEN_FLAGS: Table = (
    (0o100, "O_CREAT"),
    (0o2000, "O_APPEND"),
    (0o10000, "O_DSYNC"),
    (0o200, "O_EXCL"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o1000, "O_TRUNC"),
    (0o200000 if _ARM else 0o40000, "O_DIRECT"),
    (0o40000 if _ARM else 0o200000, "O_DIRECTORY"),
    (0o400000 if _ARM else 0o100000, "O_LARGEFILE"),
    (0o2000000, "O_CLOEXEC"),
    (0o20000000, "O_TMPFILE"),
    (0o10000000, "O_PATH"),
    (0o100000 if _ARM else 0o400000, "O_NOFOLLOW"),
)
O_DIRECTORY = next(bit for bit, name in OPEN_FLAGS if name == "O_DIRECTORY")
_ACCESS = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR")


def open_flags(value: int) -> str:
    """O_RDONLY|O_CLOEXEC: the access mode first, as Falco."""
    return "|".join((_ACCESS[value & 3], *(n for bit, n in OPEN_FLAGS if value & bit == bit)))


MODE_BITS: Table = (
    (0o200, "S_IWUSR"),
    (0o400, "S_IRUSR"),
    (0o100, "S_IXUSR"),
    (0o020, "S_IWGRP"),
    (0o040, "S_IRGRP"),
    (0o010, "S_IXGRP"),
    (0o002, "S_IWOTH"),
    (0o004, "S_IROTH"),
    (0o001, "S_IXOTH"),
    (0o4000, "S_ISUID"),
    (0o2000, "S_ISGID"),
    (0o1000, "S_ISVTX"),
)
MODE_BITS = tuple(sorted(MODE_BITS, key=lambda row: -row[0]))
CLONE_FLAGS: Table = (
    (0x00000400, "CLONE_FILES"),
    (0x00000200, "CLONE_FS"),
    (0x80000000, "CLONE_IO"),
    (0x08000000, "CLONE_NEWIPC"),
    (0x40000000, "CLONE_NEWNET"),
    (0x00020000, "CLONE_NEWNS"),
    (0x20000000, "CLONE_NEWPID"),
    (0x04000000, "CLONE_NEWUTS"),
    (0x00008000, "CLONE_PARENT"),
    (0x00010000, "CLONE_THREAD"),
    (0x00002000, "CLONE_PTRACE"),
    (0x00000800, "CLONE_SIGHAND"),
    (0x00040000, "CLONE_SYSVSEM"),
    (0x00004000, "CLONE_VFORK"),
    (0x00000100, "CLONE_VM"),
    (0x10000000, "CLONE_NEWUSER"),
    (0x02000000, "CLONE_NEWCGROUP"),
    (0x00000080, "CLONE_NEWTIME"),
)
NAMESPACES = CLONE_FLAGS
MMAP_PROT: Table = (
    (0x1, "PROT_READ"),
    (0x2, "PROT_WRITE"),
    (0x4, "PROT_EXEC"),
    (0x8, "PROT_SEM"),
    (0x01000000, "PROT_GROWSDOWN"),
    (0x02000000, "PROT_GROWSUP"),
)
MOUNT_FLAGS: Table = (
    *((1, "RDONLY"), (2, "NOSUID"), (4, "NODEV"), (8, "NOEXEC"), (16, "SYNCHRONOUS")),
    *((32, "REMOUNT"), (64, "MANDLOCK"), (128, "DIRSYNC"), (1024, "NOATIME")),
    *((2048, "NODIRATIME"), (4096, "BIND"), (8192, "MOVE"), (16384, "REC"), (32768, "SILENT")),
    *((1 << 16, "POSIXACL"), (1 << 17, "UNBINDABLE"), (1 << 18, "PRIVATE"), (1 << 19, "SLAVE")),
    *((1 << 20, "SHARED"), (1 << 21, "RELATIME"), (1 << 22, "KERNMOUNT")),
    *((1 << 23, "I_VERSION"), (1 << 24, "STRICTATIME"), (1 << 25, "LAZYTIME")),
)
UMOUNT_FLAGS: Table = ((1, "FORCE"), (2, "DETACH"), (4, "EXPIRE"), (8, "NOFOLLOW"))
UNLINK_FLAGS: Table = ((0x200, "AT_REMOVEDIR"),)
MEMFD_FLAGS: Table = ((1, "MFD_CLOEXEC"), (2, "MFD_ALLOW_SEALING"), (4, "MFD_HUGETLB"))
RENAME_FLAGS: Table = ((1, "RENAME_NOREPLACE"), (2, "RENAME_EXCHANGE"), (4, "RENAME_WHITEOUT"))

PTRACE: dict[int, str] = {
    0: "PTRACE_TRACEME",
    1: "PTRACE_PEEKTEXT",
    2: "PTRACE_PEEKDATA",
    3: "PTRACE_PEEKUSR",
    4: "PTRACE_POKETEXT",
    5: "PTRACE_POKEDATA",
    6: "PTRACE_POKEUSR",
    7: "PTRACE_CONT",
    8: "PTRACE_KILL",
    9: "PTRACE_SINGLESTEP",
    12: "PTRACE_GETREGS",
    13: "PTRACE_SETREGS",
    14: "PTRACE_GETFPREGS",
    15: "PTRACE_SETFPREGS",
    16: "PTRACE_ATTACH",
    17: "PTRACE_DETACH",
    18: "PTRACE_GETFPXREGS",
    19: "PTRACE_SETFPXREGS",
    24: "PTRACE_SYSCALL",
    25: "PTRACE_GET_THREAD_AREA",
    26: "PTRACE_SET_THREAD_AREA",
    30: "PTRACE_ARCH_PRCTL",
    31: "PTRACE_SYSEMU",
    32: "PTRACE_SYSEMU_SINGLESTEP",
    33: "PTRACE_SINGLEBLOCK",
    0x4200: "PTRACE_SETOPTIONS",
    0x4201: "PTRACE_GETEVENTMSG",
    0x4202: "PTRACE_GETSIGINFO",
    0x4203: "PTRACE_SETSIGINFO",
    0x4204: "PTRACE_GETREGSET",
    0x4205: "PTRACE_SETREGSET",
    0x4206: "PTRACE_SEIZE",
    0x4207: "PTRACE_INTERRUPT",
    0x4208: "PTRACE_LISTEN",
    0x4209: "PTRACE_PEEKSIGINFO",
    0x420A: "PTRACE_GETSIGMASK",
    0x420B: "PTRACE_SETSIGMASK",
}
FAMILIES: dict[int, str] = {
    0: "AF_UNSPEC",
    1: "AF_UNIX",
    2: "AF_INET",
    10: "AF_INET6",
    16: "AF_NETLINK",
    17: "AF_PACKET",
    21: "AF_RDS",
    29: "AF_CAN",
    31: "AF_BLUETOOTH",
    38: "AF_ALG",
    39: "AF_NFC",
    40: "AF_VSOCK",
    44: "AF_XDP",
}
SOCKET_TYPES: dict[int, str] = {
    1: "SOCK_STREAM",
    2: "SOCK_DGRAM",
    3: "SOCK_RAW",
    4: "SOCK_RDM",
    5: "SOCK_SEQPACKET",
    10: "SOCK_PACKET",
}
BPF_COMMANDS: dict[int, str] = dict(
    enumerate(
        (
            *("BPF_MAP_CREATE", "BPF_MAP_LOOKUP_ELEM", "BPF_MAP_UPDATE_ELEM"),
            *("BPF_MAP_DELETE_ELEM", "BPF_MAP_GET_NEXT_KEY", "BPF_PROG_LOAD", "BPF_OBJ_PIN"),
            *("BPF_OBJ_GET", "BPF_PROG_ATTACH", "BPF_PROG_DETACH", "BPF_PROG_TEST_RUN"),
            *("BPF_PROG_GET_NEXT_ID", "BPF_MAP_GET_NEXT_ID", "BPF_PROG_GET_FD_BY_ID"),
            *("BPF_MAP_GET_FD_BY_ID", "BPF_OBJ_GET_INFO_BY_FD", "BPF_PROG_QUERY"),
            *("BPF_RAW_TRACEPOINT_OPEN", "BPF_BTF_LOAD", "BPF_BTF_GET_FD_BY_ID"),
            *("BPF_TASK_FD_QUERY", "BPF_MAP_LOOKUP_AND_DELETE_ELEM", "BPF_MAP_FREEZE"),
            *("BPF_BTF_GET_NEXT_ID", "BPF_MAP_LOOKUP_BATCH", "BPF_MAP_LOOKUP_AND_DELETE_BATCH"),
            *("BPF_MAP_UPDATE_BATCH", "BPF_MAP_DELETE_BATCH", "BPF_LINK_CREATE"),
            *("BPF_LINK_UPDATE", "BPF_LINK_GET_FD_BY_ID", "BPF_LINK_GET_NEXT_ID"),
            *("BPF_ENABLE_STATS", "BPF_ITER_CREATE", "BPF_LINK_DETACH", "BPF_PROG_BIND_MAP"),
        )
    )
)

_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID"),
    *("CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE"),
    *("CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW"),
    *("CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT"),
    *("CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE"),
    *("CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE"),
    *("CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE"),
    *("CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ"),
    *("CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
_capability_memo: dict[int, str] = {}


def capabilities(bits: int) -> str:
    """Names joined by blanks, as Falco's thread.cap_*; '' for none."""
    found = _capability_memo.get(bits)
    if found is None:
        if len(_capability_memo) > 4096:
            _capability_memo.clear()
        found = " ".join(name for bit, name in enumerate(_CAPABILITIES) if bits >> bit & 1)
        _capability_memo[bits] = found
    return found


def errno_name(value: int) -> str:
    """ENOENT for 2; 'E512' style for one without a name."""
    return errno.errorcode.get(value, f"E{value}")


def signal_name(value: int) -> str:
    try:
        return signal.Signals(value).name
    except ValueError:
        return str(value)


def named(value: int, table: dict[int, str]) -> str:
    return table.get(value, str(value))


def bits(names: Iterable[str], table: Table) -> int:
    """The value of names: the inverse of `joined`, for test cases; KeyError if unknown."""
    known = {name: bit for bit, name in table}
    value = 0
    for name in names:
        value |= known[name]
    return value


def capability_bits(names: Iterable[str]) -> int:
    """The inverse of `capabilities`; ValueError if unknown."""
    value = 0
    for name in names:
        value |= 1 << _CAPABILITIES.index(name)
    return value
