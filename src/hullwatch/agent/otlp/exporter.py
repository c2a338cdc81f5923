"""What we know to an OTLP endpoint: a thread of its own, bounded queues, no waiting.

What cannot be sent in time is lost and counted (`stats`). Source: OTLP specification 1.10
(OTLP/HTTP response, throttling), OpenTelemetry exporter specification (retry).
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple

from hullwatch.agent.otlp.encode import Trace, logs_of, spans_of, trace_of
from hullwatch.agent.otlp.endpoint import Endpoint
from hullwatch.context.call import Call, Signal
from hullwatch.context.protobuf import INT, STR, Malformed, Message, decode

__all__ = ["Exporter", "Pace", "retry_after"]

_MAX_ANSWER = 64 << 10
_MAX_REMEMBERED = 32_768  # calls whose trace is known
_AGAIN = frozenset((429, 502, 503, 504))
_PARTIAL = Message({1: ("partial", Message({1: ("rejected", INT), 2: ("message", STR)}))})


class Pace(NamedTuple):
    """Seconds. batch: how long a first item waits for others; timeout: of one request; first, most:
    between tries, doubling; give_up: after so long a batch is lost. size: of a batch; queue: items
    that may wait, of each kind."""

    batch: float = 2.0
    timeout: float = 10.0
    first: float = 1.0
    most: float = 30.0
    give_up: float = 300.0
    size: int = 512
    queue: int = 8192


class _Refused(Exception):
    """wait: seconds the endpoint asked for, 0: it did not; again: whether another try is of use."""

    def __init__(self, what: str, *, again: bool, wait: float = 0.0) -> None:
        super().__init__(what)
        self.again = again
        self.wait = wait


class Exporter:
    """Sends from construction until `close`. headers: secrets; they are in no message and no repr.

    began, ended, signal and finding take one value each, from any one thread; they never wait.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        headers: Mapping[str, str] | None = None,
        pace: Pace = Pace(),
        host: str = "",
    ) -> None:
        self._endpoint = endpoint
        self._headers = dict(headers or {})
        self._pace = pace
        self._host = host or socket.gethostname()
        self._calls: deque[Call] = deque()
        self._signals: deque[Signal] = deque()
        self._findings: deque[Mapping[str, Any]] = deque()
        self._traces: OrderedDict[int, Trace] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._trouble = ""
        self._link: http.client.HTTPConnection | None = None
        self._mutex = threading.Lock()
        self._some = threading.Event()
        self._enough = threading.Event()
        self._until: float | None = None  # when closing: monotonic
        self._thread = threading.Thread(target=self._serve, name="otlp-export", daemon=True)
        self._thread.start()

    def began(self, call: Call) -> None:
        """So that what is made in it belongs to one trace, though it is sent before."""
        with self._mutex:
            self._traces[call.id] = trace_of(call, self._traces)
            if len(self._traces) > _MAX_REMEMBERED:
                self._traces.popitem(last=False)

    def ended(self, call: Call) -> None:
        """What came by OTLP is there already: only its ids are kept, for findings in it."""
        with self._mutex:
            known = call.id in self._traces
        if not known:
            self.began(call)
        if call.source != "otlp":
            self._put(self._calls, call, "calls")

    def signal(self, signal: Signal) -> None:
        self._put(self._signals, signal, "signals")

    def finding(self, finding: Mapping[str, Any]) -> None:
        """As plain values. One that repeats is sent again, with its count."""
        self._put(self._findings, finding, "findings")

    def stats(self) -> dict[str, Any]:
        """Counts since the start, for `status`. trouble: why the last try failed."""
        return {
            "endpoint": str(self._endpoint),
            "waiting": len(self._calls) + len(self._signals) + len(self._findings),
            "trouble": self._trouble,
            **dict(sorted(dict(self._counts).items())),
        }

    def close(self, timeout: float = 5.0) -> None:
        """Send what waits, for at most so many seconds; the rest is counted as lost."""
        self._until = time.monotonic() + timeout
        self._enough.set()
        self._some.set()
        self._thread.join(timeout + self._pace.timeout)

    def _put(self, queue: deque[Any], item: Any, kind: str) -> None:
        if len(queue) >= self._pace.queue:
            self._counts[f"{kind}_lost"] += 1
            return
        queue.append(item)
        self._some.set()
        if len(queue) >= self._pace.size:
            self._enough.set()

    # --- the thread -----------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            self._some.wait()
            self._enough.wait(self._pace.batch)
            self._some.clear()
            self._enough.clear()
            closing = self._until is not None  # after clearing, so that no word of it is missed
            self._send_all()
            if closing:
                break
        if self._link is not None:
            self._link.close()

    def _send_all(self) -> None:
        """Everything that waits, in batches."""
        while self._calls or self._signals or self._findings:
            calls = self._taken(self._calls)
            signals = self._taken(self._signals)
            findings = self._taken(self._findings)
            traces = self._known(calls, signals, findings)
            if calls or signals:
                make = partial(spans_of, calls, signals, findings, traces, self._host)
                self._deliver("traces", make, {"calls": len(calls), "signals": len(signals)})
            if findings:
                make = partial(logs_of, findings, traces, self._host)
                self._deliver("logs", make, {"findings": len(findings)})

    def _known(
        self, calls: list[Call], signals: list[Signal], findings: list[Mapping[str, Any]]
    ) -> dict[int, Trace]:
        """The traces of a batch, as far as known."""
        wanted = {one for call in calls for one in (call.id, call.parent)}
        wanted.update(signal.call for signal in signals)
        wanted.update(finding.get("span") or 0 for finding in findings)
        with self._mutex:
            return {one: self._traces[one] for one in wanted if one in self._traces}

    def _taken(self, queue: deque[Any]) -> list[Any]:
        return [queue.popleft() for _ in range(min(len(queue), self._pace.size))]

    def _deliver(self, signal: str, make: Callable[[], bytes], items: dict[str, int]) -> None:
        """Until it is there, or given up."""
        try:
            body = make()
        except Exception as error:  # a fault of ours must not end what comes after
            self._trouble = f"{type(error).__name__}: {error}"[:200]
            self._count(items, "lost")
            return
        now = time.monotonic()
        give_up = now + self._pace.give_up
        wait = self._pace.first
        if self._until is not None and now >= self._until:
            self._count(items, "lost")
            return
        while True:
            try:
                rejected = self._post(f"{self._endpoint.path}/v1/{signal}", body)
            except _Refused as refused:
                self._trouble = str(refused)
                self._counts["tries_failed"] += 1
                pause = max(refused.wait, wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, self._pace.most)
                until = give_up if self._until is None else min(give_up, self._until)
                if not refused.again or time.monotonic() + pause >= until:
                    self._count(items, "lost")
                    return
                self._sleep(pause)
            else:
                self._trouble = ""
                self._counts["rejected"] += rejected
                self._count(items, "sent")
                return

    def _sleep(self, seconds: float) -> None:
        """Not beyond the time at which closing has to be over."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._until is not None and self._until <= end:
                return
            time.sleep(min(left, 0.2))

    def _count(self, items: dict[str, int], what: str) -> None:
        for kind, count in items.items():
            if count:
                self._counts[f"{kind}_{what}"] += count

    def _post(self, path: str, body: bytes) -> int:
        """Rejected items, as the endpoint says. No redirect is followed."""
        reused = self._link is not None
        try:
            answer, data, whole = self._exchange(path, body)
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            if not reused:
                raise _Refused(f"{type(error).__name__}: {error}"[:200], again=True) from None
            return self._post(path, body)  # the old connection had gone stale
        if answer.will_close or not whole:
            self._hang_up()
        if not 200 <= answer.status < 300:
            wait = retry_after(answer.getheader("Retry-After"), time.time())
            again = answer.status in _AGAIN
            raise _Refused(f"HTTP {answer.status}", again=again, wait=wait)
        try:
            return max((decode(_PARTIAL, data)["partial"] or {}).get("rejected", 0), 0)
        except Malformed:
            return 0  # it has been taken; some answer in JSON

    def _exchange(self, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes, bool]:
        """whole: the answer was read to its end."""
        if self._link is None:
            host, port, _, context = self._endpoint
            timeout = self._pace.timeout
            if context is None:
                self._link = http.client.HTTPConnection(host, port, timeout=timeout)
            else:
                self._link = http.client.HTTPSConnection(
                    host, port, timeout=timeout, context=context
                )
        headers = {"Content-Type": "application/x-protobuf", "User-Agent": "hullwatch"}
        self._link.request("POST", path, body, headers | self._headers)
        answer = self._link.getresponse()
        data = answer.read(_MAX_ANSWER)
        return answer, data, not answer.read(1)

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None


def retry_after(value: str | None, now: float) -> float:
    """Seconds to wait, said as a number or a date (RFC 9110, 10.2.3); 0: not said. now: unix s."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
