"""What each tier cannot see, in words an operator can act on. One row a blind spot.

These are properties of the hooks (kernel/*.bpf.c), not guesses: each row names the hook that is
missing and what is seen instead.
"""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.sensor.tier import Tier

__all__ = ["BLIND_SPOTS", "BlindSpot", "blind_spots"]


class BlindSpot(NamedTuple):
    """what is not seen, what is seen instead, how to mend it; and on which tiers."""

    what: str
    instead: str
    mend: str
    tiers: frozenset[Tier]


_BOTH = frozenset({Tier.LSM, Tier.TRACEPOINT})
_TRACE = frozenset({Tier.TRACEPOINT})
_LSM_MEND = 'boot with "bpf" in the lsm= kernel parameter'

BLIND_SPOTS: tuple[BlindSpot, ...] = (
    BlindSpot(
        "symlinks on the way in rename, unlink, link, symlink, mkdir, rmdir, chmod, chown",
        "the caller's path joined to the kernel's working directory or fd, marked RAW_PATH",
        _LSM_MEND,
        _TRACE,
    ),
    BlindSpot(
        "the result of file operations done through io_uring but open, and its opens into fixed"
        " file slots",
        "each such request at its submission, marked IO_URING and ATTEMPT",
        _LSM_MEND,
        _TRACE,
    ),
    BlindSpot(
        "the result of messages sent through io_uring; where the socket is a registered file, its"
        " kind, and messages that carry no address",
        "each other message at its submission, with its address, marked IO_URING and ATTEMPT",
        "forbid io_uring in the container's seccomp profile",
        _BOTH,
    ),
    BlindSpot(
        "the address of a bind through io_uring that failed",
        "the bind and its error, marked IO_URING and UNREADABLE",
        "nothing to do: the socket is not bound",
        _BOTH,
    ),
    BlindSpot(
        "connections that one multishot accept of io_uring takes",
        "the listen with its address",
        "forbid io_uring in the container's seccomp profile",
        _BOTH,
    ),
    BlindSpot(
        "the number of the fd and the result of a successful open",
        "the open as it is granted, marked ATTEMPT; failed opens have their error",
        "nothing to do: the path and the access are the kernel's own",
        frozenset({Tier.LSM}),
    ),
    BlindSpot(
        "reads and writes on files that are open already, and what they carry",
        "the open with its access, and bytes per network flow; while something carries a label,"
        " that it went along (docs/labels.md)",
        "none: by design, cost and privacy",
        _BOTH,
    ),
    BlindSpot(
        "labels over shared memory, terminals, and connections between processes, 127.0.0.1 too",
        "the labels of who opens a connection, and those that go through files, pipes and Unix"
        " sockets",
        "give tools pipes or Unix sockets instead of local ports (docs/labels.md)",
        _BOTH,
    ),
    BlindSpot(
        "work a GPU does: kernels launched and memory shared on the device",
        "opens of its device files by which process",
        "restrict device access to known runtimes (rules/gpu)",
        _BOTH,
    ),
    BlindSpot(
        "tool and model calls over io_uring, splice, shared memory, 32-bit calls, HTTP/3, gRPC or"
        " WebSockets, or in TLS of a library that cannot be hooked",
        "what their processes do, without the call; which process it is (`tls: opaque`)",
        "`hullwatch mcp` before the server, `tool_call` in it, or `hullwatch up --otlp`",
        _BOTH,
    ),
    BlindSpot(
        "which of several calls that run in one process at once it was",
        "all of them are named, none by a guess",
        "one server process a session, or threads that speak for themselves (docs/calls.md)",
        _BOTH,
    ),
    BlindSpot(
        "names in encrypted DNS (DoT, DoH) and encrypted TLS hellos (ECH)",
        "the address, port and bytes of the connection",
        "keep containers on a plain resolver of yours",
        _BOTH,
    ),
    BlindSpot(
        "a server name in a ClientHello that spans several packets beyond the first 4096 bytes",
        "the address, and the name from DNS",
        "none needed where DNS is plain",
        _BOTH,
    ),
    BlindSpot(
        "the bytes of connections that were open before the agent started",
        "new connections from then on",
        "start the agent before the workloads",
        _BOTH,
    ),
    BlindSpot(
        "ordinary sockets as they are made (AF_UNIX, AF_NETLINK, TCP, UDP), outside of record mode",
        "what is done with them: connect, bind, listen, accept, send",
        "`hullwatch up --record` has them",
        _BOTH,
    ),
    BlindSpot(
        "32-bit system calls of arm64 processes",
        "their processes, flows and, with LSM, their files",
        "none on this version",
        _BOTH,
    ),
    BlindSpot(
        "processes in a nested virtual machine or gVisor/Kata sandbox",
        "the sandbox's own process",
        "run an agent inside the sandbox's kernel",
        _BOTH,
    ),
)


def blind_spots(tier: Tier) -> list[BlindSpot]:
    return [spot for spot in BLIND_SPOTS if tier in spot.tiers]
