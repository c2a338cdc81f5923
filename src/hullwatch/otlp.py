"""OpenTelemetry's side of the agent: calls that come in as spans, calls and findings that go out.

Nothing of it is loaded unless it is asked for, and nothing of it holds up the watch: the receiver
and the exporter have a thread and a bounded queue each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.context.call import Call

if TYPE_CHECKING:
    from hullwatch.agent.otlp.exporter import Exporter
    from hullwatch.agent.otlp.received import Received
    from hullwatch.agent.otlp.receiver import Receiver
    from hullwatch.context.enrich import Context
    from hullwatch.detect.finding import Finding

__all__ = ["Otlp"]


class Otlp:
    """problems: why something that was asked for does not run; the agent watches all the same."""

    def __init__(self, addresses: tuple[str, ...], url: str, headers: str, ca: Path | None) -> None:
        self.problems: list[str] = []
        self._receiver = self._listen(addresses) if addresses else None
        self._exporter = self._export(url, headers, ca) if url else None

    def _listen(self, addresses: tuple[str, ...]) -> Receiver | None:
        from hullwatch.agent.otlp.receiver import Receiver, ReceiverError, parse_address

        try:
            for one in addresses:
                if not parse_address(one).local:
                    self.problems.append(f"{one} can be reached from other machines")
            return Receiver(addresses)
        except ReceiverError as error:
            self.problems.append(f"calls by OTLP are not taken: {error}")
            return None

    def _export(self, url: str, source: str, ca: Path | None) -> Exporter | None:
        from hullwatch.agent.otlp.endpoint import Endpoint, EndpointError, headers_from
        from hullwatch.agent.otlp.exporter import Exporter

        try:
            headers = headers_from(source) if source else {}
            return Exporter(Endpoint.parse(url, secret=bool(headers), ca=ca), headers)
        except EndpointError as error:
            self.problems.append(f"nothing is exported: {error}")
            return None

    def take(self, context: Context) -> Iterator[Call]:
        """Calls that have come since, with their process and container where these are known."""
        for one in self._receiver.take() if self._receiver is not None else ():
            yield _placed(one, context)

    def calls(self, changed: Iterable[Call]) -> None:
        """Calls that have begun or ended."""
        if self._exporter is not None:
            for call in changed:
                if call.end:
                    self._exporter.ended(call)
                else:
                    self._exporter.began(call)

    def findings(self, findings: Iterable[Finding]) -> None:
        if self._exporter is not None:
            for finding in findings:
                self._exporter.finding(msgspec.to_builtins(finding))

    def stats(self) -> dict[str, Any]:
        """For `status`; {} where nothing was asked for."""
        found: dict[str, Any] = {}
        if self._receiver is not None:
            found["received"] = self._receiver.stats()
        if self._exporter is not None:
            found["exported"] = self._exporter.stats()
        return found

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
        if self._exporter is not None:
            self._exporter.close()


def _placed(one: Received, context: Context) -> Call:
    """The container by its id, or the peer's; the process by its number in there."""
    where = one.where
    pid = where.host_pid
    cgroup = 0
    for image in context.processes.living():
        workload = context.workloads.workload(image.workload)
        if pid:
            matches = image.pid == pid
        else:
            matches = bool(where.container_id) and workload.container_id == where.container_id
        if matches:
            cgroup = cgroup or image.cgroup
            if image.pid == pid or (not pid and where.pid and image.vpid == where.pid):
                pid, cgroup = image.pid, image.cgroup
                break
    return msgspec.structs.replace(one.call, pid=pid, cgroup=cgroup)
