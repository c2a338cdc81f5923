"""What a baseline calls the things it has seen: names that are finite, and the same everywhere.

A component that is a number, a hash or a temporary name becomes `{n}`, `{hex}`, `{uuid}`, `{tmp}`.
Pure functions of one name; `path_object` and the others give back what they are given twice.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from hullwatch.sensor.dictionary import Address

__all__ = [
    "ANY",
    "dns_object",
    "end_object",
    "group_of",
    "is_unix",
    "listen_object",
    "path_object",
    "within",
]

ANY = "**"  # the entry for what no longer fits: everything
MAX_TEXT = 512  # characters; a longer name is cut
HIGH_PORT = 32768  # ports from here on are given out by the kernel (ip_local_port_range)
_UNIX = "unix:"

# Without any of these nothing is to be replaced: most paths.
_TOUCHED = re.compile(r"[0-9]{6}|/[0-9]+(?:/|\Z)|\A[0-9]+(?:/|\Z)|[0-9a-fA-F]{12}|\*|tmp|/dev/shm/")
_WHOLE = re.compile(r"(?<![^/])[0-9]+(?![^/])")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"(?<![0-9A-Za-z])[0-9]{6,}(?![0-9A-Za-z])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{12,}(?![0-9A-Za-z])")
# Python's tempfile and mktemp(1).
_TEMP = re.compile(r"(?<![0-9A-Za-z])(?:tmp[a-z0-9_]{8}|tmp\.[0-9A-Za-z]{6,10})(?![0-9A-Za-z_])")
_SCRATCH = re.compile(r"(/tmp/|/var/tmp/|/dev/shm/)([^/]+)(.*)", re.S)
# mkstemp(3) and friends: six or more letters and digits that make no word.
_MADE_UP = re.compile(
    r"(?<![0-9A-Za-z])(?:(?=[A-Za-z_]*[0-9])(?=[0-9_]*[A-Za-z])|(?=[a-z0-9_]*[A-Z])(?=[A-Z0-9_]*[a-z]))"
    r"[0-9A-Za-z_]{6,12}(?![0-9A-Za-z_])"
)


@lru_cache(4_096)  # an event's object is asked about when it is learnt, judged and answered
def path_object(text: str) -> str:
    """A path, its numbers and made-up names replaced. A `*` in it becomes `{star}`."""
    text = text[:MAX_TEXT]
    if not _TOUCHED.search(text):
        return text
    text = text.replace("*", "{star}")
    text = _UUID.sub("{uuid}", text)
    text = _WHOLE.sub("{n}", text)
    text = _NUMBER.sub("{n}", text)
    text = _HEX.sub("{hex}", text)
    text = _TEMP.sub("{tmp}", text)
    if scratch := _SCRATCH.fullmatch(text):
        text = scratch[1] + _MADE_UP.sub("{tmp}", scratch[2]) + scratch[3]
    return text[:MAX_TEXT]


def _host(address: Address) -> str:
    ip = address.ip
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped) if ip.ipv4_mapped is not None else f"[{ip}]"
    return str(ip)


def end_object(address: Address | None, name: str | None = None) -> str:
    """`host:port`, by the domain name where it is known; `unix:PATH`; '' for other families."""
    if address is None:
        return ""
    if address.ip is None:
        return _UNIX + path_object(address.path) if address.path else ""
    host = dns_object(name) if name else ""
    return f"{host or _host(address)}:{address.port}"


def is_unix(name: str) -> bool:
    """Whether an end's name is that of a Unix socket."""
    return name.startswith(_UNIX)


def listen_object(address: Address | None) -> str:
    """The same for a local end; a port that the kernel chose is `{high}`."""
    if address is not None and address.ip is not None and address.port >= HIGH_PORT:
        return f"{_host(address)}:{{high}}"
    return end_object(address)


def dns_object(name: str) -> str:
    return name[:MAX_TEXT].lower().rstrip(".").replace("*", "{star}")


def group_of(kind: str, name: str) -> str:
    """The one pattern that a name falls under when there are too many like it.

    /usr/lib/* for a path, *.example.com:443 for a named end, {ip}:443 for an address.
    """
    if kind in ("connect", "dns", "listen") and name.startswith(("*.", "{ip}:", "{name}")):
        return name  # is one
    if kind == "dns":
        _, dot, rest = name.partition(".")
        return f"*.{rest}" if dot else "{name}"
    if kind in ("connect", "listen") and not is_unix(name):
        host, _, port = name.rpartition(":")
        if host.startswith("[") or host.replace(".", "").isdecimal():
            return f"{{ip}}:{port}"
        _, dot, rest = host.partition(".")
        return f"*.{rest}:{port}" if dot else f"{{name}}:{port}"
    return f"{name.rpartition('/')[0]}/*"


def within(pattern: str, kind: str, name: str) -> bool:
    """Whether a pattern that a person accepted covers a name: the name itself, its group,
    DIR/** for all below a directory, or ** for everything."""
    if pattern in (name, ANY) or group_of(kind, name) == pattern:
        return True
    return pattern.endswith("/**") and name.startswith(pattern[:-2])
