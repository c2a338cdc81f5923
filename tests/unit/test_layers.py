"""The folders' order is the data's way: no stage imports a later one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hullwatch

ROOT = Path(hullwatch.__file__).parent
# As the data flows. "*": the modules that join the stages (daemon.py, feedback.py, ...).
JOINERS = ("permits",)  # of several files
STAGES = "kernel sensor context detect decide store * report console cli".split()
# Beside the path: the latest stage that each may import; only later ones may import it.
BESIDE = {"coverage": "sensor", "agent": "context", "demo": "*"}
# Importer -> what it may import all the same, and why.
EXCEPTIONS = {
    # The build makes ops.h from the table of system calls, so that C and Python share one.
    "kernel/build.py": {"hullwatch.sensor.syscalls"},
    # `python -m hullwatch` is the command line.
    "__main__.py": {"hullwatch.cli"},
}


def _stage(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of our own, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if _is_ours(a.name))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            if node.module == "hullwatch":
                yield from ((node.lineno, f"hullwatch.{alias.name}") for alias in node.names)
            elif node.module and _is_ours(node.module):
                yield node.lineno, node.module


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "hullwatch"


def _may(here: str, there: str) -> bool:
    if there in ("", "__version__", here):
        return True
    if here in BESIDE:
        return _rank(there) <= _rank(here)
    return _rank(there) < _rank(here) or (_joins(there) and _joins(here))


def _joins(stage: str) -> bool:
    return (ROOT / f"{stage}.py").is_file() or stage in JOINERS


def _rank(stage: str) -> float:
    if stage in BESIDE:
        return STAGES.index(BESIDE[stage]) + 0.5
    return STAGES.index("*" if _joins(stage) else stage)


def test_no_stage_imports_a_later_one():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        here = name.split("/")[0].removesuffix(".py") if name != "__init__.py" else ""
        allowed = EXCEPTIONS.get(name, set())
        for line, module in _imports(path):
            assert _joins(here) or here in (*STAGES, *BESIDE, ""), f"{here}/: where in the order?"
            if module not in allowed and not _may(here, _stage(module)):
                wrong.append(f"src/hullwatch/{name}:{line}: {here} may not import {module}")
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_still_needed():
    for name, modules in EXCEPTIONS.items():
        found = {module for _, module in _imports(ROOT / name)}
        assert modules <= found, f"{name} no longer imports {modules - found}"


@pytest.mark.parametrize("module", ["duckdb", "pyarrow.parquet", "rich", "asyncio", "sigma", "h11"])
def test_the_agent_does_not_pay_for(module):
    """Memory: queries and Parquet are other processes' work, the command line's looks too."""
    code = f"import sys, hullwatch.daemon; sys.exit({module!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT.parent)
    assert done.returncode == 0, f"importing hullwatch.daemon imports {module}"
