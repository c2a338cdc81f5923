"""What is done with a request, whichever protocol brought it: read, map, say what became of it.

No sockets here: a Request goes in, calls go to `on_calls`, an Answer comes out. Source: OTLP
specification 1.10 (partial success, failures, throttling).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

from hullwatch.agent.otlp import jsonform, wire
from hullwatch.agent.otlp.inflate import Oversize, inflate
from hullwatch.agent.otlp.mapping import received
from hullwatch.agent.otlp.names import RESOURCE, WANTED
from hullwatch.agent.otlp.received import Peer, Received
from hullwatch.agent.otlp.span import Limits, Unreadable

__all__ = ["Allowance", "Answer", "Form", "Intake", "Outcome", "Request", "Signal"]

Signal = Literal["traces", "logs", "metrics", "profiles", ""]
Form = Literal["protobuf", "json"]
Outcome = Literal[
    "ok",
    "malformed",
    "unauthorized",
    "unknown",
    "method",
    "slow",
    "oversize",
    "media",
    "busy",
    "headers",
    "unsupported",
]


class Request(NamedTuple):
    """stream: number within its connection. signal '': no such path or method. fault: what the
    protocol itself found wrong; then there is no body."""

    stream: int
    signal: Signal
    form: Form
    gzip: bool
    body: bytes
    fault: Outcome = "ok"
    message: str = ""


class Answer(NamedTuple):
    """rejected: spans that were not taken though the rest was. retry: seconds to wait, 0: no use.
    message: for people; holds nothing of the request's content."""

    outcome: Outcome
    rejected: int = 0
    message: str = ""
    retry: int = 0


class Allowance:
    """So much a second, and a burst of it; debts are paid off first. In whatever unit."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at: float | None = None

    def open(self, now: float) -> bool:
        """Whether anything is left. now: monotonic seconds."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left > 0

    def charge(self, cost: float) -> None:
        self._left -= cost


class Intake:
    """One for all connections. on_calls takes the calls and returns how many it had no room for.

    spans: a second, with a burst of five times as many. cpu: share of one core, for reading, with a
    burst of a second: it is taken from the agent's own budget.
    """

    def __init__(
        self,
        on_calls: Callable[[list[Received]], int],
        limits: Limits = Limits(),
        spans: float = 2000.0,
        cpu: float = 0.05,
    ) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()
        self._on_calls = on_calls
        self._spans = Allowance(spans, 5 * spans)
        self._cpu = Allowance(cpu, 1.0)

    def take(self, request: Request, peer: Peer, now: float) -> Answer:
        answer = self._take(request, peer, now)
        self.counts[f"requests_{answer.outcome}"] += 1
        if answer.rejected:
            self.counts["spans_rejected"] += answer.rejected
        return answer

    def _take(self, request: Request, peer: Peer, now: float) -> Answer:
        if request.fault != "ok":
            return Answer(request.fault, message=request.message)
        if not request.signal:
            return Answer("unknown", message="traces are taken: /v1/traces, TraceService/Export")
        if request.signal != "traces":
            self.counts[f"ignored_{request.signal}"] += 1
            return Answer("ok")
        if not (self._spans.open(now) and self._cpu.open(now)):
            return Answer("busy", message="too many spans a second", retry=1)
        began = time.thread_time()
        try:
            return self._read(request, peer)
        except Oversize as error:
            return Answer("oversize", message=str(error))
        except Unreadable as error:
            return Answer("malformed", message=str(error)[:200])
        finally:
            self._cpu.charge(time.thread_time() - began)

    def _read(self, request: Request, peer: Peer) -> Answer:
        body = inflate(request.body, self.limits.inflated) if request.gzip else request.body
        read = jsonform.read if request.form == "json" else wire.read
        export = read(body, WANTED, RESOURCE, self.limits)
        total = len(export.spans) + export.rejected
        self._spans.charge(total)
        calls = received(export.spans, peer)
        left_out = self._on_calls(calls) if calls else 0
        self.counts["spans"] += total
        self.counts["calls"] += len(calls) - left_out
        self.counts["spans_other"] += len(export.spans) - len(calls)
        self.counts["attributes_dropped"] += sum(
            len(span.skipped) + span.uncounted for span in export.spans
        )
        self.counts["calls_dropped"] += left_out
        words = []
        if export.rejected:
            words.append(
                f"{export.rejected} spans are without sane ids and times, or over"
                f" {self.limits.spans} in a message"
            )
        if left_out:
            words.append(f"{left_out} calls found no room: the agent is behind")
        return Answer("ok", export.rejected + left_out, "; ".join(words))
