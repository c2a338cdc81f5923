"""A capture through the stages: what `hullwatch replay` and back-tests run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from hullwatch.context.enrich import Context
from hullwatch.context.recorded import RecordedResolver
from hullwatch.context.workload import Workload
from hullwatch.detect.engine import Engine
from hullwatch.detect.finding import Finding
from hullwatch.detect.ruleset import RuleSet
from hullwatch.sensor.capture import CaptureReader, workloads_of
from hullwatch.store.state import Session
from hullwatch.store.writer import Writer

__all__ = ["Replay"]


class Replay:
    """Iterate to run it; gives the findings of each batch. Raises CaptureError on a bad file."""

    def __init__(self, path: Path, rules: RuleSet, store: Path | None = None) -> None:
        self._reader = CaptureReader(path)
        self._source = RecordedResolver()
        self._context = Context(self._source, hold=False)
        self._engine = Engine(rules)
        about = self._reader.about
        session = Session(about["tier"], about["kernel"], "replay", rules.digest)
        self._writer = Writer(store, session) if store is not None else None
        self.events = 0
        self.lost = 0
        self.torn = ""

    def __iter__(self) -> Iterator[list[Finding]]:
        decode = msgspec.json.Decoder(Workload).decode
        # Metadata that came later in the recording is known from the start: what held then is
        # what a live run ends up with.
        values = [decode(raw) for raw in workloads_of(self._reader.path)]
        self._source.add(values)
        try:
            if self._writer is not None:
                self._writer.put_workloads(values)
            for batch, _ in self._reader:
                self.events += len(batch.events)
                self.lost += sum(loss.count for loss in batch.losses)
                for enriched in self._context.enrich(batch):
                    findings = self._engine.process(enriched)
                    if self._writer is not None:
                        self._writer.write(enriched)
                        self._writer.add_findings(findings)
                    if findings:
                        yield findings
                if self._writer is not None:
                    self._writer.add_losses(batch.losses)
                    self._writer.tick()
        finally:
            self.torn = self._reader.torn
            self._reader.close()
            if self._writer is not None:
                self._writer.close("replayed")
