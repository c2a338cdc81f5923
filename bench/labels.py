"""What labels cost those who read and write: `python bench/labels.py` (root).

Prints ns a system call, the median of rounds that take turns: without a sensor, with one and no
label anywhere, while somebody else carries one, and while the caller itself does.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.patterns import Pattern, compiled
from hullwatch.sensor.sensor import Sensor

_ROUNDS = 9
_CALLS = 100_000


def _measured(files: dict[str, tuple[int, int]]) -> dict[str, float]:
    found = {}
    for name, (source, target) in files.items():
        began = time.perf_counter_ns()
        if name == "pipe":
            for _ in range(_CALLS):
                os.write(target, b"x")
                os.read(source, 1)
        else:
            for _ in range(_CALLS):
                os.pwrite(target, b"x", 0)
                os.pread(source, 1, 0)
        found[name] = (time.perf_counter_ns() - began) / _CALLS / 2
    return found


def main() -> None:
    rounds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data, secret = Path(folder, "data"), Path(folder, "x.secret")
        for path in (data, secret):
            path.write_text("x")
        read, write = os.pipe()
        file = os.open(data, os.O_RDWR)
        files = {"pipe": (read, write), "file": (file, file)}

        def note(state: str) -> None:
            for name, value in _measured(files).items():
                rounds.setdefault(state, {}).setdefault(name, []).append(value)

        _measured(files)
        for _ in range(_ROUNDS):
            note("none")
            sensor = Sensor(own_tgid=1)
            sensor.labels.give_paths(compiled([Pattern("*.secret", bits_of(["secret"]))]))
            sensor.labels.follow_host(True)
            sensor.start()
            sensor.drain()
            note("no label")
            sensor.labels.add(2, bits_of(["secret"]))
            note("another's")
            sensor.labels.add(os.getpid(), bits_of(["secret"]))
            note("own")
            sensor.close()
    print(
        json.dumps(
            {
                state: {name: round(statistics.median(values)) for name, values in found.items()}
                for state, found in rounds.items()
            }
        )
    )


if __name__ == "__main__":
    main()
