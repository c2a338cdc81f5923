"""What a person should know of what passes: signals, told once a minute each; texts and secrets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.mcp.injection import MAX_SCAN, Hit, look, plain, told
from hullwatch.agent.report import Reporter
from hullwatch.agent.secrets.canaries import USED, Canaries, used
from hullwatch.context.call import MAX_TEXT, Call, Signal, Value

__all__ = ["FAULT", "WHOLE", "Detect", "Signals"]

FAULT = "the gateway could not look into a message; please report it"
_MAX_TOLD = 4096  # signals that are remembered so as not to be repeated
_AGAIN_NS = 60 * 10**9
_MAX_SEEN = 8192  # definitions that were looked at
_MAX_TOOLS = 8192  # whose definition as it is now is known
WHOLE = ""  # instead of a tool: what a server says of itself, which is about all of them

Detect = Callable[[bytes], Sequence[Any]]
"""Bytes to what was found in them; each has a `kind`."""


class Signals:
    """Of one server. detect: finds secrets; canaries: whose values are looked for."""

    def __init__(
        self,
        server: str,
        reporter: Reporter,
        detect: Detect | None,
        clock: Callable[[], int],
        canaries: Canaries | None = None,
    ) -> None:
        self._canaries = canaries or Canaries()
        self._server = server
        self._reporter = reporter
        self._detect = detect
        self._clock = clock
        self._told: OrderedDict[tuple[str, str, str], tuple[int, int]] = OrderedDict()
        self._seen: OrderedDict[tuple[str, int], bool] = OrderedDict()
        self._steers: OrderedDict[str, bool] = OrderedDict()

    def tell(
        self,
        kind: str,
        subject: str,
        detail: str,
        *,
        call: int = 0,
        held: bool = False,
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        """The same within a minute is counted, and told with the next one."""
        now = self._clock()
        key = (kind, subject, detail)
        since, repeats = self._told.pop(key, (0, 0))
        if since and now - since < _AGAIN_NS:
            self._told[key] = (since, repeats + 1)
            return
        self._told[key] = (now, 0)
        if len(self._told) > _MAX_TOLD:
            self._told.popitem(last=False)
        said = dict(attributes or {})
        if repeats:
            said[semconv.REPEATS] = repeats
        self._reporter.signal(
            Signal(
                kind=kind,
                subject=subject[:MAX_TEXT],
                detail=detail[:MAX_TEXT],
                time=now,
                server=self._server,
                call=call,
                held=held,
                attributes=said,
            )
        )

    def fault(self, error: Exception) -> None:
        """A mistake of ours must not cut what passes; it must not pass unsaid either."""
        self.tell("gateway_fault", type(error).__name__, FAULT)

    def definition(self, tool: str, raw: bytes) -> None:
        """Text that a model is given about a tool, or about all of them (WHOLE): listed again and
        again, looked at once."""
        key = (tool, hash(raw))
        if raw and key not in self._seen:
            hits = look(plain(raw), "definition")
            subject = tool or "instructions"
            self._seen[key] = self._injection("injection_in_definition", subject, hits, 0)
            if len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)
        self._steers[tool] = self._seen.get(key, False)
        self._steers.move_to_end(tool)
        if len(self._steers) > _MAX_TOOLS:
            self._steers.popitem(last=False)

    def steers(self, tool: str) -> bool | None:
        """Whether its definition, as it is now, speaks to the model; None: not listed here yet."""
        return self._steers.get(tool)

    def result(self, subject: str, raw: bytes, call: int) -> bool:
        """Text that a model is given as an answer. Whether it speaks to it."""
        return self._injection("injection_in_result", subject, look(plain(raw), "result"), call)

    def _injection(self, kind: str, subject: str, hits: tuple[Hit, ...], call: int) -> bool:
        if not told(hits):
            return False
        why = "; ".join(dict.fromkeys(hit.sign.why for hit in hits))
        attributes: dict[str, Value] = {
            semconv.SIGNS: ",".join(hit.sign.ident for hit in hits)[:MAX_TEXT],
            semconv.SIGN_OFFSETS: ",".join(str(hit.offset) for hit in hits)[:MAX_TEXT],
        }
        self.tell(kind, subject, why, call=call, attributes=attributes)
        return True

    def canaries(self, raw: bytes, where: str, call: int = 0) -> bool:
        """Whether one is in it. where: what of a message these bytes are, and of which tool, in
        words. Of what is large, both ends are looked at."""
        found = list(self._canaries.find(_ends(raw)))
        for one in found:
            signal = used(one, f"in {where} of {self._server}", self._clock(), call)
            self.tell(USED, signal.subject, signal.detail, call=call)
        return bool(found)

    def secrets(self, call: Call, raw: bytes, kind: str) -> Call:
        """The call with the kinds of secrets in its arguments or result; of what is large, in both
        of its ends."""
        kinds = self.kinds(raw)
        if not kinds:
            return call
        said = ",".join(kinds)[:MAX_TEXT]
        self.tell(kind, call.name, said, call=call.id, attributes={semconv.SECRET_KINDS: said})
        known = str(call.attributes.get(semconv.SECRET_KINDS, ""))
        both = ",".join(sorted({*kinds, *filter(None, known.split(","))}))[:MAX_TEXT]
        return msgspec.structs.replace(
            call, attributes=call.attributes | {semconv.SECRET_KINDS: both}
        )

    def kinds(self, raw: bytes) -> list[str]:
        """Of secrets in it, sorted."""
        if self._detect is None or not raw:
            return []
        try:
            return sorted({str(found.kind) for found in self._detect(_ends(raw))})
        except Exception as error:
            self.fault(error)
            return []


def _ends(raw: bytes) -> bytes:
    half = MAX_SCAN // 2
    return raw if len(raw) <= MAX_SCAN else raw[:half] + b"\n" + raw[-half:]
