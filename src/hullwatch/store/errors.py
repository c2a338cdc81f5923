"""The store's exception family: what went wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = ["ContainerUnknown", "QueryError", "StoreBusy", "StoreError", "StoreMissing"]


class StoreError(Exception):
    """`where: what; mend`, one line."""

    def __init__(self, where: object, what: str, mend: str = "") -> None:
        self.where, self.what, self.mend = str(where), what, mend
        super().__init__(f"{where}: {what}" + (f"; {mend}" if mend else ""))


class StoreBusy(StoreError):
    """Another agent writes to this store."""


class StoreMissing(StoreError):
    """There is no store at this place."""


class ContainerUnknown(StoreError):
    """The store is fine, and knows no such container."""


class QueryError(StoreError):
    """A query that cannot be run, or ran into a limit."""
