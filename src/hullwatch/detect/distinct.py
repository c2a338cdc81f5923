"""How many different things were seen, in a few bytes: a number that is never too high."""

from __future__ import annotations

__all__ = ["Distinct"]

_BITS = 4096


class Distinct:
    """A set of which only the size is asked. Each thing sets one of _BITS bits, so that things may
    share one: the size is exact for a handful, 2 % low at 200, and at most _BITS."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = 0

    def add(self, thing: object) -> None:
        self._bits |= 1 << (hash(thing) % _BITS)

    def __len__(self) -> int:
        return self._bits.bit_count()
