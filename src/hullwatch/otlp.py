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
        came = list(self._receiver.take()) if self._receiver is not None else []
        if came:
            places = _Places(context)
            yield from (places.of(one) for one in came)

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


class _Places:
    """Where the processes are that run now: made once for all calls of a turn."""

    def __init__(self, context: Context) -> None:
        self._of_pid: dict[int, int] = {}
        self._inside: dict[tuple[str, int], tuple[int, int]] = {}
        for image in context.processes.living():
            self._of_pid[image.pid] = image.cgroup
            container = context.workloads.workload(image.workload).container_id
            if container:
                self._inside[container, image.vpid] = image.pid, image.cgroup
                self._inside.setdefault((container, 0), (0, image.cgroup))

    def of(self, one: Received) -> Call:
        """The call with its process by its number in the container, and the container by its id;
        of a peer that the kernel vouches for, that one's."""
        where = one.where
        if pid := where.host_pid:
            place = pid, self._of_pid.get(pid, 0)
        else:
            whole = self._inside.get((where.container_id, 0), (0, 0))
            place = self._inside.get((where.container_id, where.pid), whole)
        return msgspec.structs.replace(one.call, pid=place[0], cgroup=place[1])
