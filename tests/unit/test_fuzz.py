"""A short, bounded run of each fuzz target; longer ones: tests/fuzz/run.py."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import TARGETS

RUN = Path(__file__).parents[1] / "fuzz" / "run.py"
SECONDS = int(os.environ.get("HULLWATCH_FUZZ_SECONDS", "1"))

ROUNDS = {"rules": 500, "kernel_policies": 100}  # each loads files


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_bytes_without_guidance(target: str):
    random_bytes = random.Random(target)
    for _ in range(ROUNDS.get(target, 1000)):
        TARGETS[target](random_bytes.randbytes(random_bytes.randrange(300)))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_guided_by_coverage(target: str, tmp_path: Path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install atheris")
    command = [sys.executable, str(RUN), target, "--seconds", str(SECONDS)]
    done = subprocess.run(
        [*command, "--corpus", str(tmp_path / "corpus")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
