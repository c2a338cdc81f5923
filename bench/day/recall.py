"""The other half: the attack replicas of the live tests, run as they are; how many are found."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as tree
from pathlib import Path
from typing import NamedTuple

__all__ = ["Recall", "attack"]

ROOT = Path(__file__).resolve().parents[2]
# A case of these tests is one attack; what they find, and what they must not, is in their files.
FILES = ("test_attacks_pack.py", "test_replicas.py")
_CASES = ("test_attack_is_found", "test_replica_is_found")


class Recall(NamedTuple):
    """Names of attacks; skipped: what this machine cannot do, with the reason."""

    found: list[str]
    missed: list[str]
    skipped: list[str]


def attack(log: Path) -> Recall:
    """SystemExit if the tests could not be run."""
    files = [ROOT / "tests" / "live" / name for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as file:
        results = Path(folder) / "results.xml"
        command += [*(str(one) for one in files if one.exists()), f"--junit-xml={results}"]
        subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False)
        if not results.exists():
            raise SystemExit(f"the attacks could not be run: {log}\n{log.read_text()[-2000:]}")
        recall = Recall([], [], [])
        for case in tree.parse(results).iter("testcase"):
            name = case.get("name", "")
            if not name.startswith(_CASES):
                continue
            skipped = case.find("skipped")
            if skipped is not None:
                recall.skipped.append(f"{name}: {skipped.get('message')}")
            elif case.find("failure") is not None or case.find("error") is not None:
                recall.missed.append(name)
            else:
                recall.found.append(name)
    return recall
