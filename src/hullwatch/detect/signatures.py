"""Equal bits, one number."""

from __future__ import annotations

__all__ = ["Overflow", "Signatures"]


class Overflow(Exception):
    """More distinct signatures than a table holds: the engine starts its tables anew."""


class Signatures:
    """(holds, unknown) to a dense number; number 0 is (0, 0)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.parts: list[tuple[int, int]] = []
        self.ids: dict[tuple[int, int], int] = {}
        self.clear()

    def clear(self) -> None:
        self.parts = [(0, 0)]
        self.ids = {(0, 0): 0}

    def of(self, holds: int, unknown: int = 0) -> int:
        key = (holds, unknown)
        found = self.ids.get(key)
        if found is None:
            found = len(self.parts)
            if found >= self.limit:
                raise Overflow
            self.ids[key] = found
            self.parts.append(key)
        return found
