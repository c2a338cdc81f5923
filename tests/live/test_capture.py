"""What a real sensor reported comes out of a capture as it went in."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hullwatch.context.workload import Workload
from hullwatch.sensor.capture import CaptureReader, CaptureWriter
from hullwatch.sensor.dictionary import Dictionary
from support.watch import Watch, missing_bpf

pytestmark = pytest.mark.scenario


def test_recorded_and_read_again(tmp_path: Path):
    if reason := missing_bpf():
        pytest.skip(reason)
    path = tmp_path / "capture"
    workload = Workload(cgroup=7, cgroup_path="/x", state="resolved", name="a\nb")
    watch = Watch(keep_batches=True)
    try:
        writer = CaptureWriter(path, watch.sensor.facts)
        done = watch.run(["sh", "-c", "cat /etc/hostname; exit 3"])
        watch.act(lambda: os.open(tmp_path / "new\x1b[1m", os.O_WRONLY | os.O_CREAT))
        for batch in watch.batches:
            writer.write(batch, [workload] if batch is watch.batches[0] else ())
        writer.close()
    finally:
        watch.close()
    reader = CaptureReader(path)
    read = list(reader)
    assert reader.about["tier"] == watch.sensor.facts.tier
    assert [msgspec.json.decode(w, type=Workload) for _, ws in read for w in ws] == [workload]
    events = np.concatenate([batch.events for batch, _ in read])
    live = np.concatenate([batch.events for batch in watch.batches])
    assert np.array_equal(np.sort(events["ts"]), np.sort(live["ts"]))
    # Strings come before their events, so one pass over the file knows every id.
    strings = Dictionary()
    for batch, _ in read:
        strings.add(batch.strings)
        for column in ("obj", "obj2"):
            assert all(strings.entry(i).kind for i in np.unique(batch.events[column]).tolist() if i)
    texts = {strings.text(int(i)) for i in events["obj"]}
    assert {"/etc/hostname", f"{tmp_path.resolve()}/new\x1b[1m"} <= texts
    images = np.concatenate([batch.procs for batch, _ in read])
    mine = images[images["pid"] == done.pid]
    assert "sh -c cat /etc/hostname; exit 3" in {strings.text(int(i)) for i in mine["argv"]}
