"""How often a finding that grows is passed on: the first at once, repeats at a bounded rate.

Nothing is lost: a state that is held back is replaced by a newer one of the same finding, and that
is passed on when its second is over. The counts are in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from hullwatch.detect.finding import Finding

__all__ = ["Pace"]

INTERVAL = 1.0  # seconds
BURST = 3  # repeats of one finding that pass within an interval
MAX_KNOWN = 10_000  # findings; one that is forgotten passes at once again


class Pace:
    """Times are seconds of one clock that only goes forward."""

    def __init__(self, burst: int = BURST, interval: float = INTERVAL) -> None:
        self.burst, self.interval = burst, interval
        self._passed: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._held: dict[str, Finding] = {}

    def known(self, idents: Iterable[str]) -> None:
        """Findings that were passed on by an earlier run: what comes of them is a repeat."""
        for ident in idents:
            self._passed[ident] = (0.0, 0)

    def admit(self, findings: Iterable[Finding], now: float) -> list[Finding]:
        """Those that pass now; the others wait for `due`."""
        passing: list[Finding] = []
        for finding in findings:
            begun, count = self._passed.get(finding.id, (now, -1))
            if now - begun >= self.interval:
                begun, count = now, 0 if self.burst else -1
            if count < self.burst:
                self._passed[finding.id] = (begun, count + 1)
                self._passed.move_to_end(finding.id)
                self._held.pop(finding.id, None)
                passing.append(finding)
            else:
                self._held[finding.id] = finding
        while len(self._passed) > MAX_KNOWN:
            self._passed.popitem(last=False)
        return passing

    def due(self, now: float | None) -> list[Finding]:
        """Held states whose time has come; all of them for None."""
        ready = [
            finding
            for ident, finding in self._held.items()
            if now is None or now - self._passed.get(ident, (0.0, 0))[0] >= self.interval
        ]
        for finding in ready:
            del self._held[finding.id]
            if now is not None:
                self._passed[finding.id] = (now, 0)
        return ready
