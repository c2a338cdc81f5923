"""A piece of what is said, held while it passes: only where a workload's content is to be kept."""

from __future__ import annotations

__all__ = ["MOST", "Room", "Said"]

MOST = 128 << 10  # bytes of one
ROOM = 32 << 20  # bytes of all that are under way


class Room:
    """What all of them may take together; left: bytes."""

    __slots__ = ("left",)

    def __init__(self, size: int = ROOM) -> None:
        self.left = size


class Said:
    """The first MOST bytes. whole: there were no more, and nothing was missing.

    Not redacted yet: it is never queued, and does not show itself."""

    __slots__ = ("_room", "data", "whole")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.data = bytearray()
        self.whole = True

    def __repr__(self) -> str:
        return f"Said({len(self.data)}, whole={self.whole})"

    def __del__(self) -> None:
        self._room.left += len(self.data)

    def add(self, piece: bytes) -> None:
        """What comes after a missing piece is not taken: a secret's end may stand there."""
        fits = min(len(piece), MOST - len(self.data), self._room.left) if self.whole else 0
        self.whole = fits == len(piece)
        self.data += piece[:fits]
        self._room.left -= fits
