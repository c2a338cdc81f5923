"""What an exec or task row keeps of its process image beyond the columns that hunts use.

With it an image is built again exactly as it was: see restore.py. JSON, so that a hunt can look
into it too: `detail->>'$.tty'`. Numbers that are most often the same everywhere come first, which
is what makes the column small.
"""

from __future__ import annotations

from itertools import accumulate

import msgspec

from hullwatch.context.enriched import ProcessImage

__all__ = ["Detail", "decode", "encode", "split"]

_NOBODY = 0xFFFFFFFF  # loginuid that was never set, (uid_t)-1


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """As in context.enriched; ids and capabilities are those at exec. Times: exe_* unix ns,
    started CLOCK_BOOTTIME ns.

    argv: lengths in characters, only where blanks in `object2` do not tell the arguments apart.
    """

    namespaces: tuple[int, ...] = ()
    uid: int = 0
    gid: int = 0
    euid: int = 0
    egid: int = 0
    loginuid: int = _NOBODY
    tty: int = 0
    cap_effective: int = 0
    cap_permitted: int = 0
    cap_inheritable: int = 0
    exe_ctime: int = 0
    exe_mtime: int = 0
    argv: tuple[int, ...] | None = None
    vpid: int = 0
    pgid: int = 0
    vpgid: int = 0
    sid: int = 0
    started: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Detail).decode


def encode(image: ProcessImage) -> str:
    """The column's text."""
    of = image.program
    plain = tuple(" ".join(of.argv).split(" ")) == of.argv if of.argv else True
    made = Detail(
        of.namespaces, of.uid, of.gid, of.euid, of.egid, of.loginuid, of.tty,
        of.cap_effective, of.cap_permitted, of.cap_inheritable, of.exe_ctime, of.exe_mtime,
        None if plain and of.argv[-1:] != ("",) else tuple(map(len, of.argv)),
        image.vpid, image.pgid, image.vpgid, image.sid, image.started,
    )  # fmt: skip
    return _encode(made).decode()


def decode(text: str) -> Detail | None:
    """None for what is no such text: a file may be damaged."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def split(line: str, lengths: tuple[int, ...] | None) -> tuple[str, ...]:
    """Arguments joined by blanks, apart again. Empty ones at the end are not in `line`."""
    if lengths is None:
        return tuple(line.split(" ")) if line else ()
    begins = accumulate((length + 1 for length in lengths), initial=0)
    return tuple(
        line[begin : begin + length] for begin, length in zip(begins, lengths, strict=False)
    )
