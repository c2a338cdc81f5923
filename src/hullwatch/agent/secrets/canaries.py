"""Values of canaries, recognised wherever they turn up, and kept nowhere.

A value goes by its *runs*: its longest rows of letters and digits. No quote, escape or separator
is within one, so it is the same run in JSON, in a header, an address or a command line; letters
count in either case, as in names of hosts; and a part of a value is enough. Of a run the keyed hash
and the length are kept.
"""

from __future__ import annotations

import binascii
import re
import time as clock
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import re2

from hullwatch.agent.planted import KEY, NAME, Planted, read
from hullwatch.agent.secrets.canary import RUN, content, own
from hullwatch.agent.secrets.detection import latin1
from hullwatch.agent.secrets.escapes import unescape
from hullwatch.agent.secrets.key import Key, KeyUnusable
from hullwatch.context.call import Signal

__all__ = ["USED", "Canaries", "marks", "used"]

USED = "canary_used"
"""The kind of signal that tells of one."""
_ESCAPES = re.compile(rb"\\[bfnrt]")  # their letter is none of a run
_CODED = re2.compile(rb"[A-Za-z0-9+/_-]{24,}", latin1())
_STANDARD = bytes.maketrans(b"-_", b"+/")
_LINE_ENDS = b"\r\n"


def marks(form: str, text: str, key: Key) -> dict[str, int]:
    """What a file of this form is recognised by: hash to length. Of what it holds, that which
    another of its form has not, nor would by chance: words of the form alone do not count."""
    runs = (run.decode() for run in RUN.findall(text.encode()))
    drawn = {run.lower().encode() for run in runs if RUN.search(own(form, run).encode())}
    drawn -= _runs(content(form).encode())
    return {key.hash(run): len(run) for run in sorted(drawn)}


class Canaries:
    """What is planted, by the values. reach: bytes before a place that may decide what it is."""

    def __init__(self, planted: Iterable[tuple[Key, Planted]] = ()) -> None:
        self._known: dict[Key, dict[str, Planted]] = {}
        for key, one in planted:
            self._known.setdefault(key, {}).update(dict.fromkeys(one.marks, one))
        lengths = {
            length
            for known in self._known.values()
            for one in known.values()
            for length in one.marks.values()
        }
        self._lengths = frozenset(lengths)
        self.reach = 6 * max(lengths, default=0)  # `\u0041`

    @classmethod
    def load(cls, files: Iterable[Path]) -> tuple[Canaries, list[str]]:
        """Those whose rules are among these files, and what could not be read of them."""
        found, problems = read(file for file in files if NAME.fullmatch(file.name))
        keys: dict[Path, Key] = {}
        planted: list[tuple[Key, Planted]] = []
        for path, one in found:
            if not one.marks:
                continue  # of an earlier version
            at = path.parent / KEY
            try:
                if at not in keys:
                    keys[at] = Key.load(at)
            except KeyUnusable as error:
                problems.append(str(error))
            else:
                planted.append((keys[at], one))
        return cls(planted), problems

    def __bool__(self) -> bool:
        return bool(self._lengths)

    def find(self, data: bytes) -> tuple[Planted, ...]:
        """Those with a value in these bytes, each once: plain, escaped as in JSON or in an address,
        or in base64. Linear; never raises."""
        if not self._lengths:
            return ()
        found: dict[str, Planted] = {}
        for text in _readings(data):
            for run in _runs(text):
                if len(run) in self._lengths:
                    for key, known in self._known.items():
                        if one := known.get(key.hash(run)):
                            found[one.id] = one
        return tuple(found.values())


def used(one: Planted, how: str, time: int, call: int = 0) -> Signal:
    """A value of a canary was seen. how: in words, in what, and to where; time: unix ns."""
    planted = clock.strftime("%Y-%m-%d %H:%M UTC", clock.gmtime(one.made))
    where = f"{one.path} in {one.container}" if one.container else one.path
    detail = f"{one.id} ({one.form}), planted {planted} at {where}"
    return Signal(kind=USED, subject=how, detail=detail, time=time, call=call)


def _runs(text: bytes) -> set[bytes]:
    return {run.lower() for run in RUN.findall(text)}


def _readings(data: bytes) -> Iterator[bytes]:
    plain = unescape(data).text if b"\\u00" in data else data
    plain = _ESCAPES.sub(b" ", plain.replace(b"\\/", b"/"))
    yield plain
    if b"%" in plain:
        yield unquote_to_bytes(plain)
    coded = _CODED.findall(plain.translate(_STANDARD, _LINE_ENDS))
    if coded:
        # Nobody knows where in a group of four a piece begins.
        yield b" ".join(_decoded(run[start:]) for run in coded for start in range(4))


def _decoded(run: bytes) -> bytes:
    return binascii.a2b_base64(run[: len(run) - (len(run) % 4 == 1)] + b"==")
