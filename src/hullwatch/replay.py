"""What was recorded through the stages: a capture, or the store's history.

`hullwatch replay` and `backtest` run this; context and detect are those of `hullwatch up`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from hullwatch.context.enrich import Context
from hullwatch.context.enriched import Enriched
from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.workload import Workload
from hullwatch.detect.engine import Engine
from hullwatch.detect.finding import Finding
from hullwatch.detect.ruleset import RuleSet
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.capture import CaptureReader, workloads_of
from hullwatch.store.state import Session
from hullwatch.store.writer import Writer

__all__ = ["Capture", "Replay", "Source"]


class Source(Protocol):
    """Batches in order, and what is known of their cgroups. begin: batches that end before this
    CLOCK_BOOTTIME only tell who was there; known once the first batch is. torn: why it ended."""

    resolver: RecordedResolver
    begin: int
    torn: str

    def __iter__(self) -> Iterator[Batch]: ...
    def close(self) -> None: ...


class Capture:
    """A file of `hullwatch record` as a source. Raises CaptureError on a bad one."""

    begin = 0

    def __init__(self, path: Path) -> None:
        self._reader = CaptureReader(path)
        self.about = self._reader.about
        decode = msgspec.json.Decoder(Workload).decode
        # Metadata that came later in the recording is known from the start: what held then is
        # what a live run ends up with.
        self.workloads = [decode(raw) for raw in workloads_of(self._reader.path)]
        self.resolver = RecordedResolver(self.workloads)
        self.torn = ""

    def __iter__(self) -> Iterator[Batch]:
        for batch, _ in self._reader:
            yield batch
        self.torn = self._reader.torn

    def close(self) -> None:
        self._reader.close()


class Replay:
    """Iterate once to run it; gives the findings of each batch, or `enriched` what they are of.

    store: also write all of it there, for captures.
    """

    def __init__(self, source: Source, rules: RuleSet, store: Path | None = None) -> None:
        self._source = source
        self._context = Context(source.resolver, hold=False)
        self._rules = rules
        self._writer: Writer | None = None
        if store is not None and isinstance(source, Capture):
            about = source.about
            session = Session(about["tier"], about["kernel"], "replay", rules.digest)
            self._writer = Writer(store, session)
            self._writer.put_workloads(source.workloads)
        self.events = 0
        self.lost = 0

    @property
    def torn(self) -> str:
        return self._source.torn

    @property
    def unknown(self) -> int:
        """Processes of which nothing was recorded but their key."""
        return self._context.processes.unknown_made

    def __iter__(self) -> Iterator[list[Finding]]:
        engine, writer = Engine(self._rules), self._writer
        for enriched in self.enriched():
            findings = engine.process(enriched)
            if writer is not None:
                writer.write(enriched)
                writer.add_findings(findings)
            if findings:
                yield findings

    def enriched(self) -> Iterator[Enriched]:
        """Every batch that rules are asked about."""
        source, writer = self._source, self._writer
        try:
            for batch in source:
                self.lost += sum(loss.count for loss in batch.losses)
                parts = self._context.enrich(batch)
                if len(batch.events) and int(batch.events["ts"][-1]) < source.begin:
                    continue
                self.events += len(batch.events)
                yield from parts
                if writer is not None:
                    writer.add_losses(batch.losses)
                    writer.tick()
        finally:
            source.close()
            if writer is not None:
                writer.close("replayed")
