"""The system calls the sensor names, and their numbers by architecture.

A row's position is `hw_event.op` and is part of the stored format: append, never reorder.
Numbers: Linux arch/x86/entry/syscalls/syscall_{64,32}.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OPS", "SOCKETCALLS", "SYSCALLS", "Syscall", "op_of"]


class Syscall(NamedTuple):
    """name, the BPF handler (kernel/*.bpf.c) and the number on x86-64, arm64 and 32-bit x86.

    None: that architecture does not have it.
    """

    name: str
    handler: str
    x86_64: int | None
    arm64: int | None
    ia32: int | None


SYSCALLS: tuple[Syscall, ...] = (
    Syscall("", "", None, None, None),
    Syscall("open", "exit_open", 2, None, 5),
    Syscall("openat", "exit_open", 257, 56, 295),
    Syscall("openat2", "exit_open", 437, 437, 437),
    Syscall("creat", "exit_open", 85, None, 8),
    Syscall("open_by_handle_at", "exit_open", 304, 265, 342),
    Syscall("rename", "exit_path2", 82, None, 38),
    Syscall("renameat", "exit_path2", 264, 38, 302),
    Syscall("renameat2", "exit_path2", 316, 276, 353),
    Syscall("link", "exit_path2", 86, None, 9),
    Syscall("linkat", "exit_path2", 265, 37, 303),
    Syscall("symlink", "exit_path2", 88, None, 83),
    Syscall("symlinkat", "exit_path2", 266, 36, 304),
    Syscall("unlink", "exit_path1", 87, None, 10),
    Syscall("unlinkat", "exit_path1", 263, 35, 301),
    Syscall("rmdir", "exit_path1", 84, None, 40),
    Syscall("mkdir", "exit_path1", 83, None, 39),
    Syscall("mkdirat", "exit_path1", 258, 34, 296),
    Syscall("chmod", "exit_path1", 90, None, 15),
    Syscall("fchmod", "exit_path1", 91, 52, 94),
    Syscall("fchmodat", "exit_path1", 268, 53, 306),
    Syscall("fchmodat2", "exit_path1", 452, 452, 452),
    Syscall("chown", "exit_path1", 92, None, 212),
    Syscall("lchown", "exit_path1", 94, None, 198),
    Syscall("fchown", "exit_path1", 93, 55, 207),
    Syscall("fchownat", "exit_path1", 260, 54, 298),
    Syscall("mmap", "exit_mmap", 9, 222, 192),
    Syscall("mprotect", "exit_mmap", 10, 226, 125),
    Syscall("socket", "exit_socket", 41, 198, 359),
    Syscall("connect", "exit_addr", 42, 203, 362),
    Syscall("bind", "exit_addr", 49, 200, 361),
    Syscall("listen", "exit_sock", 50, 201, 363),
    Syscall("accept", "exit_sock", 43, 202, None),
    Syscall("accept4", "exit_sock", 288, 242, 364),
    Syscall("sendto", "exit_send", 44, 206, 369),
    Syscall("sendmsg", "exit_send", 46, 211, 370),
    Syscall("sendmmsg", "exit_send", 307, 269, 345),
    Syscall("dup", "exit_dup", 32, 23, 41),
    Syscall("dup2", "exit_dup", 33, None, 63),
    Syscall("dup3", "exit_dup", 292, 24, 330),
    Syscall("ptrace", "exit_sensitive", 101, 117, 26),
    Syscall("process_vm_readv", "exit_sensitive", 310, 270, 347),
    Syscall("process_vm_writev", "exit_sensitive", 311, 271, 348),
    Syscall("mount", "exit_mount", 165, 40, 21),
    Syscall("umount2", "exit_mount", 166, 39, 52),
    Syscall("pivot_root", "exit_mount", 155, 41, 217),
    Syscall("move_mount", "exit_mount", 429, 429, 429),
    Syscall("fsopen", "exit_mount", 430, 430, 430),
    Syscall("open_tree", "exit_mount", 428, 428, 428),
    Syscall("mount_setattr", "exit_mount", 442, 442, 442),
    Syscall("unshare", "exit_sensitive", 272, 97, 310),
    Syscall("setns", "exit_sensitive", 308, 268, 346),
    Syscall("setuid", "exit_setid", 105, 146, 213),
    Syscall("setgid", "exit_setid", 106, 144, 214),
    Syscall("setreuid", "exit_setid", 113, 145, 203),
    Syscall("setregid", "exit_setid", 114, 143, 204),
    Syscall("setresuid", "exit_setid", 117, 147, 208),
    Syscall("setresgid", "exit_setid", 119, 149, 210),
    Syscall("setfsuid", "exit_setid", 122, 151, 215),
    Syscall("setfsgid", "exit_setid", 123, 152, 216),
    Syscall("setgroups", "exit_setid", 116, 159, 206),
    Syscall("capset", "exit_setid", 126, 91, 185),
    Syscall("bpf", "exit_sensitive", 321, 280, 357),
    Syscall("perf_event_open", "exit_sensitive", 298, 241, 336),
    Syscall("init_module", "exit_sensitive", 175, 105, 128),
    Syscall("finit_module", "exit_module", 313, 273, 350),
    Syscall("delete_module", "exit_module", 176, 106, 129),
    Syscall("memfd_create", "exit_module", 319, 279, 356),
    Syscall("userfaultfd", "exit_sensitive", 323, 282, 374),
    Syscall("keyctl", "exit_sensitive", 250, 219, 288),
    Syscall("add_key", "exit_sensitive", 248, 217, 286),
    Syscall("request_key", "exit_sensitive", 249, 218, 287),
    Syscall("kexec_load", "exit_sensitive", 246, 104, 283),
    Syscall("kexec_file_load", "exit_sensitive", 320, 294, None),
    Syscall("io_uring_setup", "exit_sensitive", 425, 425, 425),
    Syscall("execve", "exit_exec", 59, 221, 11),
    Syscall("execveat", "exit_exec", 322, 281, 358),
    Syscall("truncate", "exit_path1", 76, 45, 92),
    Syscall("memfd_secret", "exit_sensitive", 447, 447, 447),
    Syscall("chroot", "exit_mount", 161, 51, 61),
    Syscall("read", "exit_data", 0, 63, 3),
    Syscall("readv", "exit_data", 19, 65, 145),
    Syscall("pread64", "exit_data", 17, 67, 180),
    Syscall("preadv", "exit_data", 295, 69, 333),
    Syscall("preadv2", "exit_data", 327, 286, 378),
    Syscall("recvfrom", "exit_data", 45, 207, 371),
    Syscall("recvmsg", "exit_data", 47, 212, 372),
    Syscall("recvmmsg", "exit_data", 299, 243, 337),
    Syscall("write", "exit_data", 1, 64, 4),
    Syscall("writev", "exit_data", 20, 66, 146),
    Syscall("pwrite64", "exit_data", 18, 68, 181),
    Syscall("pwritev", "exit_data", 296, 70, 334),
    Syscall("pwritev2", "exit_data", 328, 287, 379),
    Syscall("vmsplice", "exit_data", 278, 75, 316),
    Syscall("sendfile", "exit_data", 40, 71, 187),
    Syscall("splice", "exit_data", 275, 76, 313),
    Syscall("tee", "exit_data", 276, 77, 315),
    Syscall("copy_file_range", "exit_data", 326, 285, 377),
    Syscall("pidfd_getfd", "exit_data", 438, 438, 438),
)

# What 32-bit x86 programs may also reach through socketcall(2): include/uapi/linux/net.h.
SOCKETCALLS: dict[int, str] = {
    1: "socket",
    2: "bind",
    3: "connect",
    4: "listen",
    5: "accept",
    9: "sendto",  # send
    10: "recvfrom",  # recv
    11: "sendto",
    12: "recvfrom",
    16: "sendmsg",
    17: "recvmsg",
    18: "accept4",
    19: "recvmmsg",
    20: "sendmmsg",
}

OPS: tuple[str, ...] = tuple(row.name for row in SYSCALLS)
_OP = {name: op for op, name in enumerate(OPS)}


def op_of(name: str) -> int:
    """The op of a system call by name; KeyError if the sensor does not name it."""
    return _OP[name]
