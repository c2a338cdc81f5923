"""Every check in one go, fast ones first: `make test`; or those named: `tests/all.py lint unit`.

A failing section does not stop the next one, so one run tells all. The last line printed is the sum
over all sections, "N passed, N failed, N skipped"; a linter counts as one test. Exit status 1 if
anything failed or if a section ran no test at all.
"""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "build" / "reports"
BIN = Path(sys.executable).parent


class Count(NamedTuple):
    """Outcomes of one section."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Section(NamedTuple):
    """A name for the banner and the command line; commands that count by status; pytest folders."""

    name: str
    about: str
    commands: tuple[tuple[str, ...], ...] = ()
    pytest: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "lint",
        "style, format, types",
        commands=(
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "mypy"),),
        ),
    ),
    Section("unit", "no privilege needed", pytest=("-n", "auto", "tests/unit")),
    Section("peers", "real MCP servers and clients", pytest=("-n", "auto", "tests/peers")),
    Section("live", "real containers on this host", pytest=("tests/live",)),
    Section("vm", "the scenarios again, on kernels with BPF LSM", pytest=("tests/vm",)),
)


def banner(text: str) -> None:
    """A line that is found when scrolling."""
    print(f"\n{'=' * 20} {text} {'=' * max(3, 78 - len(text))}", flush=True)


def read_junit(path: Path) -> Count:
    """Outcomes in a pytest --junit-xml file; a missing or broken file is one failure."""
    try:
        suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return Count(failed=1)

    def total(key: str) -> int:
        return sum(int(suite.get(key, "0")) for suite in suites)

    failed, skipped = total("failures") + total("errors"), total("skipped")
    return Count(max(0, total("tests") - failed - skipped), failed, skipped)


def run(section: Section) -> Count:
    """Run one section and count its outcomes."""
    passed = failed = 0
    for command in section.commands:
        print("$", Path(command[0]).name, *command[1:], flush=True)
        ok = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        passed, failed = passed + ok, failed + (not ok)
    count = Count(passed, failed)
    if section.pytest:
        report = REPORTS / f"{section.name}.xml"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        command = (sys.executable, "-m", "pytest", "--durations=5", f"--junit-xml={report}")
        print("$", "pytest", *section.pytest, flush=True)
        status = subprocess.run([*command, *section.pytest], cwd=ROOT, check=False).returncode
        count = read_junit(report)
        if status and not count.failed:  # crashed, was interrupted, or collected nothing (5)
            count = count._replace(failed=1)
    return count


def main(names: list[str]) -> int:
    """Run the sections named (all, if none) and print the sum last."""
    unknown = set(names) - {section.name for section in SECTIONS}
    if unknown:
        known = ", ".join(section.name for section in SECTIONS)
        print(f"all.py: no section {', '.join(sorted(unknown))} (there are: {known})")
        return 2
    # Once, and not each time that a test starts a program: emulated, that takes seconds.
    compileall.compile_dir(ROOT / "src", quiet=1)
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    results: list[tuple[Section, Count, float]] = []
    for section in SECTIONS:
        if names and section.name not in names:
            continue
        banner(f"{section.name}: {section.about}")
        start = time.monotonic()
        count = run(section)
        results.append((section, count, time.monotonic() - start))
    banner("summary")
    for section, count, seconds in results:
        print(f"  {section.name:6} {seconds:6.0f} s   {count}")
    total = Count(*(sum(column) for column in zip(*(c for _, c, _ in results), strict=True)))
    print(flush=True)
    print(total, flush=True)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
