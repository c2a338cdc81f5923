"""Ways out of a container: rules/escape/."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

NAMESPACE = "Namespace entered or made in a container"

ATTACKS = (
    Attack(
        "runtime-socket",
        'server = socket.socket(socket.AF_UNIX); server.bind("/run/docker.sock"); server.listen()\n'
        'socket.socket(socket.AF_UNIX).connect("/run/docker.sock")',
        {"Container runtime socket used from a container": "/run/docker.sock"},
    ),
    Attack(
        "ptrace",
        "pid = os.fork() or os.execv('/bin/sleep', ['sleep', '60'])\n"
        "_libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), None, None)\n"
        "os.kill(pid, 9); os.waitpid(pid, 0)",
        {"Process traced or changed in a container": ".*"},
    ),
    Attack(
        "module",
        "call(313 if os.uname().machine == 'x86_64' else 273, -1, b'', 0)",
        {"Kernel module loaded from a container": ".*"},
    ),
    Attack(
        "bpf",
        "call(321 if os.uname().machine == 'x86_64' else 280, 5, bytes(128), 128)",
        {"BPF program loaded from a container": ".*"},
    ),
    Attack(
        "mount",
        'os.makedirs("/m"); assert _libc.mount(b"none", b"/m", b"tmpfs", 0, None) == 0',
        {"File system mounted in a container": "/m"},
        privileged=True,
    ),
    Attack(
        "unshare",
        "assert _libc.unshare(0x10000000 | 0x20000) == 0",
        {NAMESPACE: ".*"},
        privileged=True,
    ),
    Attack(
        "core-pattern",
        'open("/proc/sys/kernel/core_pattern", "r+").close()',  # opened, and not changed
        {"Kernel control file written from a container": "/proc/sys/kernel/core_pattern"},
        privileged=True,
    ),
    Attack(
        "io-uring",
        "call(425, 1, ctypes.create_string_buffer(256))",
        {"io_uring set up in an AI container": ".*"},
    ),
    Attack(
        "setuid",
        'touch("/srv/suid"); os.chmod("/srv/suid", 0o4755)',
        {"Set-user-id bit set in a container": "/srv/suid"},
    ),
    Attack(
        "chroot",
        'os.chroot("/srv")',
        {"Root directory changed in a container": "/srv"},
        privileged=True,
    ),
    Attack(
        "disk",
        'os.mknod("/dev/sda", 0o20600, os.makedev(1, 3)); open("/dev/sda").close()',  # /dev/null
        {"Raw disk or memory device opened in a container": ".*/sda"},
        privileged=True,
    ),
    Attack(
        "module-removed",
        "call(176 if os.uname().machine == 'x86_64' else 106, b'hullwatch_none', 0x800)",
        {"Kernel replaced or a module removed from a container": ".*"},
    ),
    Attack(
        "page-faults",
        "assert call(323 if os.uname().machine == 'x86_64' else 282, 1) >= 0",
        {"Page faults handled in user space in a container": ".*"},
    ),
    Attack(
        "performance",
        "call(298 if os.uname().machine == 'x86_64' else 241, bytes(128), 0, -1, -1, 0)",
        {"Performance events opened in a container": ".*"},
    ),
    Attack(
        "symbols",
        'open("/proc/kallsyms").close()',
        {"Kernel debugging file opened from a container": "/proc/kallsyms"},
    ),
)
