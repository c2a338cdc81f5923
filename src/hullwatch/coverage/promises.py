"""What policies in force prevent, tier by tier, when somebody tries to get around them.

One row an attempt. tests/live/test_guard_bypasses.py makes each of them, in a container that
policies hold and in one that they do not, and holds the rows to what comes of it.
"""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.sensor.tier import Tier

__all__ = ["PROMISES", "Promise", "promises"]


class Promise(NamedTuple):
    """key: of the test. attempt: what is tried. tiers: where it is prevented. mend: what an
    operator can do where it is not, '' if it is prevented everywhere."""

    key: str
    attempt: str
    tiers: frozenset[Tier]
    mend: str = ""

    def kept(self, tier: Tier) -> bool:
        """Whether it is prevented there."""
        return tier in self.tiers


_BOTH = frozenset({Tier.LSM, Tier.TRACEPOINT})
_LSM = frozenset({Tier.LSM})
_ASKED = frozenset({Tier.TRACEPOINT})  # through fanotify, by the file itself
_NOWHERE: frozenset[Tier] = frozenset()
_BOOT = 'boot with "bpf" in the lsm= kernel parameter'
_NAMES = "forbid `resource.upper` as well, or permit programs by their paths"
_SECRETS = f"{_BOOT}, or forbid the file by its path, too"
_LABELS = "forbid the helper its connections, too, or let only one process have the secret"

_RIGHTS = _BOOT + ", or give no container the host's processes, CAP_KILL, CAP_SYS_PTRACE or CAP_BPF"
_SOCKET = f"{_BOOT}, or mount no such socket into the container"
_POWER = f"{_BOOT}, or give the container no such capabilities and no_new_privs"
_MOUNT = (
    'forbid `privilege` "mount" (LSM), or take user namespaces and CAP_SYS_ADMIN from the container'
)

PROMISES: tuple[Promise, ...] = (
    # programs
    Promise("exec", "a forbidden program", _BOTH),
    Promise("exec-symlink", "a forbidden program through a symbolic link", _BOTH),
    Promise("exec-proc-root", "a forbidden program through /proc/self/root", _BOTH),
    Promise("exec-fd", "a forbidden program by its open file (fexecve)", _BOTH),
    Promise("exec-bind-mount", "a forbidden path mounted in another place", _BOTH),
    Promise("exec-chroot", "a forbidden path below another root directory", _BOTH),
    Promise("exec-renamed", "a program linked and renamed, `resource.upper` forbidden", _BOTH),
    Promise(
        "exec-other-name",
        "another name of a program that is forbidden by one of its names (busybox)",
        _NOWHERE,
        "have no such programs in the image, or permit programs by their paths",
    ),
    Promise("exec-copied", "a copy of a program, `resource.upper` forbidden", _BOTH),
    Promise(
        "exec-copied-by-name",
        "a copy of a program that is forbidden by its name alone",
        _NOWHERE,
        _NAMES,
    ),
    Promise(
        "exec-tmpfs", "a copy of a program in memory (tmpfs), `resource.upper` forbidden", _BOTH
    ),
    Promise("exec-memfd", "a program without a file (memfd), `resource.upper` forbidden", _BOTH),
    Promise("exec-script-of-shell", "a script whose #! names a forbidden program", _BOTH),
    Promise(
        "exec-script-later",
        "a script that came after the image, `resource.upper` forbidden, its interpreter not",
        _LSM,
        _BOOT,
    ),
    Promise(
        "exec-loader",
        "a forbidden program given to ld.so as its argument",
        _LSM,
        _BOOT + ", or forbid ld.so",
    ),
    Promise(
        "exec-interpreter",
        "what an interpreter does that is not forbidden itself",
        _NOWHERE,
        "forbid the interpreter, or what it must not reach: files, networks, labels",
    ),
    Promise("exec-by-program", "a program that is forbidden for one that runs it", _BOTH),
    Promise("exec-many", "a forbidden program, by a hundred short processes at once", _BOTH),
    Promise("exec-race", "a link that changes its target while it is executed", _BOTH),
    Promise("exec-namespaces", "a forbidden program in new user, mount and pid namespaces", _BOTH),
    Promise("exec-joins", "a forbidden program started by the runtime (`docker exec`)", _BOTH),
    # files
    Promise("open", "a forbidden file", _BOTH),
    Promise("open-symlink", "a forbidden file through a symbolic link", _BOTH),
    Promise("open-hard-link", "a forbidden file through a new hard link", _BOTH),
    Promise("open-renamed", "a forbidden file linked and renamed", _BOTH),
    Promise(
        "open-folder-renamed",
        "a forbidden file after its folder was renamed",
        _ASKED,
        "forbid `open-write` of the folder's own path, too",
    ),
    Promise("open-bind-mount", "a forbidden file whose folder is mounted in another place", _BOTH),
    Promise(
        "open-volume-mounted",
        "a forbidden file of a volume that is mounted in another place",
        _NOWHERE,
        _MOUNT,
    ),
    Promise("open-proc-root", "a forbidden file through /proc/self/root", _BOTH),
    Promise(
        "open-proc-fd",
        "a forbidden file opened as a path and then through /proc/self/fd",
        _BOTH,
    ),
    Promise("open-handle", "a forbidden file by its handle (open_by_handle_at)", _BOTH),
    Promise("open-race", "a link that changes its target while it is opened", _BOTH),
    Promise("open-many", "a forbidden file, by a hundred short processes at once", _BOTH),
    Promise("open-threads", "a link that some threads change while others open it", _BOTH),
    Promise("open-io-uring", "a forbidden file through io_uring", _BOTH),
    Promise("open-32-bit", "a forbidden file by a 32-bit call", _BOTH),
    Promise("open-passed", "an open file that another container hands over", _LSM, _BOOT),
    Promise(
        "open-passed-io-uring",
        "an open file that another container hands over, taken through io_uring",
        _LSM,
        _BOOT,
    ),
    Promise(
        "open-taken",
        "an open file taken from a process of another container (pidfd_getfd)",
        _LSM,
        _BOOT,
    ),
    Promise("open-by-program", "a file that is forbidden for one program", _BOTH),
    Promise("secret", "a file of a kind of secret that is forbidden", _BOTH),
    Promise("secret-symlink", "the same, through a symbolic link", _BOTH),
    Promise("secret-linked", "a new hard link to such a file, elsewhere", _LSM, _SECRETS),
    Promise(
        "secret-bind-mount",
        "such a file, whose folder is mounted in another place",
        _LSM,
        _SECRETS,
    ),
    Promise("load", "code of a kind that is forbidden to load", _BOTH),
    Promise("load-renamed", "the same, by a thread that calls itself otherwise", _BOTH),
    Promise(
        "load-interpreter-copied",
        "the same, by an interpreter under another name",
        _NOWHERE,
        "forbid `exec` of `resource.upper`, or `open-read` of the files",
    ),
    # network
    Promise("connect", "a forbidden address", _BOTH),
    Promise("connect-mapped", "a forbidden IPv4 address written as IPv6", _BOTH),
    Promise("send", "a datagram to a forbidden address", _BOTH),
    Promise("connect-fast-open", "a forbidden address by TCP Fast Open", _BOTH),
    Promise("connect-io-uring", "a forbidden address through io_uring", _BOTH),
    Promise("connect-32-bit", "a forbidden address by 32-bit socketcall", _BOTH),
    Promise("socket-raw", "a raw socket, where addresses are forbidden", _BOTH),
    Promise("socket-icmp", "an ICMP socket, where addresses are forbidden", _BOTH),
    Promise("socket-udplite", "a UDP-Lite socket, where addresses are forbidden", _BOTH),
    Promise("socket-sctp", "an SCTP socket, where addresses are forbidden", _BOTH),
    Promise(
        "socket-packet",
        "a packet socket, where addresses are forbidden",
        _LSM,
        "take CAP_NET_RAW from the container",
    ),
    Promise(
        "socket-vsock",
        "a socket to the virtual machine's host, where addresses are forbidden",
        _LSM,
        "forbid AF_VSOCK in the container's seccomp profile",
    ),
    Promise(
        "connect-nested-cgroup", "a forbidden address from a cgroup below the container's", _BOTH
    ),
    Promise(
        "leave-cgroup",
        "a forbidden address or program after moving to a cgroup outside of the container's",
        _BOTH,
    ),
    Promise(
        "clone-into-cgroup",
        "a forbidden address or program by a child made in another cgroup (CLONE_INTO_CGROUP)",
        _BOTH,
    ),
    Promise(
        "connect-namespaces", "a forbidden address from new user and network namespaces", _BOTH
    ),
    Promise("connect-race", "an address that changes while it is connected to", _BOTH),
    Promise("connect-threads", "an address that some threads change while others connect", _BOTH),
    Promise("connect-many", "a forbidden address, by a hundred short processes at once", _BOTH),
    Promise("name-rebound", "a permitted name whose answer is a forbidden address", _BOTH),
    Promise("name-answered-by-others", "a permitted name, answered by who is no resolver", _BOTH),
    Promise(
        "name-forged",
        "a permitted name, answered by the container itself from the resolver's address",
        _BOTH,
    ),
    Promise(
        "name-forged-by-others",
        "a permitted name, answered by another container of the pod from the resolver's address",
        _NOWHERE,
        "take CAP_NET_RAW and CAP_NET_ADMIN from all containers of the pod",
    ),
    # Unix sockets
    Promise("unix", "a forbidden Unix socket", _LSM, _SOCKET),
    Promise("unix-other-name", "a forbidden Unix socket through a link or a mount", _LSM, _SOCKET),
    Promise("unix-datagram", "a datagram to a forbidden Unix socket", _LSM, _SOCKET),
    Promise("unix-abstract", "a forbidden Unix socket with an abstract name", _LSM, _SOCKET),
    Promise(
        "unix-renamed",
        "a forbidden Unix socket whose file was renamed",
        _NOWHERE,
        "forbid `open-write` of the socket's path, too, or mount its folder read-only",
    ),
    # rights
    Promise("power-setuid", "another user or group (setuid, setgid, setgroups)", _LSM, _POWER),
    Promise("power-setuid-program", "another user by a setuid program", _LSM, _POWER),
    Promise("power-capset", "other capabilities (capset)", _LSM, _POWER),
    Promise("power-file-capability", "capabilities by those of a program's file", _LSM, _POWER),
    Promise("power-mount", "a mount, an unmount, another root (pivot_root)", _LSM, _MOUNT),
    Promise("connect-sni", "a forbidden name by its address alone, asked for by TLS", _BOTH),
    Promise("connect-sni-split", "the same, the TLS hello in many small segments", _BOTH),
    Promise("connect-sni-records", "the same, the TLS hello in two records", _BOTH),
    Promise("connect-sni-urgent", "the same, with an urgent byte in the TLS hello", _BOTH),
    Promise("connect-sni-mptcp", "the same, by Multipath TCP", _BOTH),
    Promise("connect-sni-lie", "a forbidden address, asked by TLS for a permitted name", _BOTH),
    Promise(
        "connect-sni-fronted",
        "the address of a permitted name, asked by TLS for one that is not",
        _BOTH,
    ),
    Promise(
        "connect-sni-later",
        "a forbidden name by its address alone, TLS after something else (STARTTLS, a proxy)",
        _NOWHERE,
        "permit hosts by their names, instead of forbidding some",
    ),
    Promise(
        "connect-quic",
        "a forbidden name by its address alone, over QUIC",
        _NOWHERE,
        "permit hosts by their names, or take UDP port 443 from the container's network",
    ),
    # tool calls
    Promise(
        "call-forged",
        "a tool call told of another container's server, by one of its pod that has the socket",
        _NOWHERE,
        "mount the socket of calls into the gateway's container alone",
    ),
    # labels
    Promise("label-connect", "a connection after a secret was read", _BOTH),
    Promise("label-open-connection", "a secret over a connection from before", _BOTH),
    Promise("label-inherited", "a secret over a connection that the parent had opened", _BOTH),
    Promise(
        "label-passed-before",
        "a secret over a connection that another process had handed over",
        _BOTH,
    ),
    Promise(
        "label-passed-after",
        "a secret over a connection that another process hands over later",
        _BOTH,
    ),
    Promise(
        "label-passed-io-uring",
        "a secret over a connection that is handed over later, taken through io_uring",
        _BOTH,
    ),
    Promise(
        "label-taken",
        "a secret over a connection taken from another process (pidfd_getfd)",
        _BOTH,
    ),
    Promise("label-far-fd", "a secret over a connection of a very high number", _BOTH),
    Promise("label-many-sockets", "a secret over a connection, and 70,000 sockets after it", _BOTH),
    Promise("label-helper", "a secret told to a helper that has a connection", _BOTH),
    Promise("label-file", "a secret told in a file to whoever has a connection", _BOTH),
    Promise(
        "label-shared-memory",
        "a secret told in shared memory to whoever has a connection",
        _NOWHERE,
        _LABELS,
    ),
    Promise("label-threads", "a secret that one thread reads and another sends", _BOTH),
    Promise("label-routed", "a secret over a connection with a routing header (IPv6)", _BOTH),
    # the last of them: from then on all of the container is taken to have read the secret
    Promise("label-many-pipes", "a secret told over a pipe, and 36,000 pipes after it", _BOTH),
    # Hullwatch itself, from a container with all rights, the host's processes and its folders
    Promise("own-socket", "the control socket, given to a container as a mount", _BOTH),
    Promise("own-signal", "a signal to the agent", _LSM, _RIGHTS),
    Promise("own-trace", "tracing the agent", _LSM, _RIGHTS),
    Promise("own-memory", "reading the agent's memory", _LSM, _RIGHTS),
    Promise("own-maps", "taking hold of the agent's maps", _LSM, _RIGHTS),
    Promise(
        "own-store",
        "writing to the agent's files, given to a container as a mount",
        _NOWHERE,
        "give no container these folders; the pack finds it (rules/tamper)",
    ),
)


def promises(tier: Tier) -> dict[str, bool]:
    """Attempt by attempt, whether it is prevented on this tier."""
    return {one.attempt: one.kept(tier) for one in PROMISES}
