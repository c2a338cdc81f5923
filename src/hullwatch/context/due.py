"""A bounded queue of jobs, each due at its time, between threads."""

import heapq
import itertools
import threading
import time
from typing import Generic, TypeVar

__all__ = ["DueQueue"]

T = TypeVar("T")


class DueQueue(Generic[T]):
    """``put`` never waits: it says False when full. ``get`` waits until a job is due."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, job: T, delay: float = 0.0) -> bool:
        """Due after ``delay`` seconds."""
        with self._changed:
            if self._closed or len(self._heap) >= self._limit:
                return False
            heapq.heappush(self._heap, (time.monotonic() + delay, next(self._numbers), job))
            self._changed.notify()
            return True

    def get(self) -> T | None:
        """The next job that is due; None once closed."""
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                    continue
                left = self._heap[0][0] - time.monotonic()
                if left <= 0:
                    return heapq.heappop(self._heap)[2]
                self._changed.wait(left)
            return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
