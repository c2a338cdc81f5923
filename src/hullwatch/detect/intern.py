"""Small integers for things seen before, for whole arrays at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

__all__ = ["KeyTable", "SlotTable"]

_BITS = 16
_SIZE = 1 << _BITS
_MAX_SLOTS = 1 << 24  # ids come from the kernel, or from a file: a wild one must not cost memory
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


class KeyTable:
    """uint64 keys to dense ids, exact. A direct-mapped front makes known keys cheap.

    `make(row)` is called once for each new key with a row that has it, and must return the id
    after the last, in order. At most `limit` keys; the owner clears when `full`.
    """

    def __init__(self, limit: int, multiplier: int = 0x9E3779B97F4A7C15) -> None:
        self.limit = limit
        self.ids: dict[int, int] = {}
        # Odd, and best secret: who can guess it can make keys that share a front slot.
        self.multiplier = np.uint64(multiplier | 1)
        self.clear()

    def clear(self) -> None:
        self.ids.clear()
        # Zeros take memory only where they are written. Key 0 has slot 0, so no other is mistaken.
        self.front_keys = np.zeros(_SIZE, np.uint64)
        self.front_keys[0] = _EMPTY
        self.front_ids = np.zeros(_SIZE, np.int32)

    @property
    def full(self) -> bool:
        return len(self.ids) >= self.limit

    def look(self, keys: np.ndarray, make: Callable[[int], int]) -> np.ndarray:
        """int32 ids of uint64 keys."""
        slots = ((keys * self.multiplier) >> np.uint64(64 - _BITS)).astype(np.int64)
        found = self.front_ids[slots]
        missed = np.flatnonzero(self.front_keys[slots] != keys)
        if missed.size:
            unique, first, inverse = np.unique(keys[missed], return_index=True, return_inverse=True)
            ids = np.empty(unique.size, np.int32)
            for at, (key, row) in enumerate(
                zip(unique.tolist(), missed[first].tolist(), strict=True)
            ):
                known = self.ids.get(key)
                if known is None:
                    known = self.ids[key] = make(row)
                ids[at] = known
            found[missed] = ids[inverse]
            self.front_keys[slots[missed]] = keys[missed]
            self.front_ids[slots[missed]] = found[missed]
        return found


class SlotTable:
    """An int32 for each of a growing range of integers, -1 where not worked out yet.

    Slot 0 always has a place; the others count from `base`.
    """

    def __init__(self) -> None:
        self.base = 1
        self.values = np.full(1024, -1, np.int32)

    def clear(self) -> None:
        self.values.fill(-1)

    def forget(self, slots: Iterable[int]) -> None:
        for slot in slots:
            at = slot - self.base + 1 if slot else 0
            if 0 <= at < self.values.size:
                self.values[at] = -1

    def forget_below(self, base: int) -> None:
        """Drop all slots but 0 below base; one that is asked for after all is not kept."""
        if base <= self.base:
            return
        kept = self.values[1 + base - self.base :]
        values = np.full(max(kept.size + 1, 1024), -1, np.int32)
        values[0] = self.values[0]
        values[1 : kept.size + 1] = kept
        self.base, self.values = base, values

    def one(self, slot: int, make: Callable[[int], int]) -> int:
        """The value of one slot."""
        at = slot - self.base + 1 if slot else 0
        if at < 0 or (slot and not at) or at > _MAX_SLOTS:
            return make(slot)
        self._grow(at)
        found = int(self.values[at])
        if found < 0:
            found = make(slot)
            self.values[at] = found
        return found

    def _grow(self, top: int) -> None:
        if top >= self.values.size:
            grown = np.full(max(top + 1, 2 * self.values.size), -1, np.int32)
            grown[: self.values.size] = self.values
            self.values = grown

    def look(self, slots: np.ndarray, make: Callable[[int], int]) -> np.ndarray:
        """The values of slots; make(slot) works out a missing one."""
        if not slots.size:
            return np.empty(0, np.int32)
        at = slots.astype(np.int64)
        gone = None
        if self.base > 1:
            at -= self.base - 1
            outside = (at <= 0) | (at > _MAX_SLOTS)
        else:
            outside = at > _MAX_SLOTS
        if outside.any():
            at[outside] = 0
            gone = outside & (slots != 0)
        self._grow(int(at.max()))
        found = self.values[at]
        missing = found < 0
        if gone is not None:
            missing &= ~gone
        if missing.any():
            places, first = np.unique(at[missing], return_index=True)
            made = [make(slot) for slot in slots[missing][first].tolist()]
            self.values[places] = made
            found = self.values[at]
        if gone is not None and gone.any():
            distinct, back = np.unique(slots[gone], return_inverse=True)
            found[gone] = np.fromiter(map(make, distinct.tolist()), np.int32, distinct.size)[back]
        return found
