"""Fuzz one target with atheris (pip install atheris):

    .venv/bin/python tests/fuzz/run.py dns --seconds 600 [--corpus DIR]

Inputs that were interesting are kept in the corpus directory (default build/fuzz/TARGET) and are
where the next run starts. A crash prints the input and exits with 77, as libFuzzer does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]


def main() -> None:
    """Command line."""
    atheris: Any = importlib.import_module("atheris")

    parts = ("sensor", "detect", "decide", "context", "agent")
    with atheris.instrument_imports(include=[f"hullwatch.{part}" for part in parts]):
        from fuzz.targets import TARGETS
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path)
    options = parser.parse_args()
    corpus = options.corpus or ROOT / "build" / "fuzz" / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=10"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], TARGETS[options.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
