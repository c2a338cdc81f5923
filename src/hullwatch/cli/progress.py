"""How far long work over the store is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["progress_line"]

_EVERY = 0.5  # s between two lines on a terminal; ten times that elsewhere


def progress_line() -> Callable[[int, int], None]:
    """One line on stderr, rewritten on a terminal."""
    terminal = sys.stderr.isatty()
    began = due = time.monotonic()

    def show(done: int, of: int) -> None:
        nonlocal due
        now = time.monotonic()
        ended = done == of
        if now < due and not ended:
            return
        due = now + (_EVERY if terminal else 10 * _EVERY)
        rate = done / max(now - began, 1e-3)
        left = f", {(of - done) / rate:.0f} s left" if done and not ended else ""
        text = f"{done / max(of, 1):4.0%} of about {of:,} events, {rate:,.0f} a second{left}"
        print(f"\r{text:<70}" if terminal else text, end="" if terminal and not ended else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    return show
