"""Baselines as values: what the store keeps, and what people are shown."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Changes", "EntryRow", "ProfileRow"]


class ProfileRow(NamedTuple):
    """One image. Times: unix ns; learning: ns. See `Profile`."""

    image: str
    name: str
    first: int
    learning: int
    locked: int | None
    accepted: tuple[tuple[str, str], ...]
    revision: int


class EntryRow(NamedTuple):
    """One thing an image has done. containers: ids (12 characters) of those that did it.

    count: events that were seen; what the kernel counted by itself is not among them. sure: since
    when it was done for certain, unix ns; None: from the first on; 0: it was only tried, and policy
    may have stopped it.
    """

    image: str
    kind: str
    name: str
    first: int
    last: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody wants
    containers: tuple[str, ...]
    sure: int | None = None

    @property
    def tried(self) -> bool:
        """And no more."""
        return self.sure == 0


class Changes(NamedTuple):
    """What is to be written. gone: entries (image, kind, name) that were folded into others;
    dropped: images that made room for others."""

    profiles: tuple[ProfileRow, ...]
    entries: tuple[EntryRow, ...]
    gone: tuple[tuple[str, str, str], ...]
    dropped: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.profiles or self.entries or self.gone or self.dropped)
