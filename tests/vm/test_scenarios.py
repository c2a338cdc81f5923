"""The scenarios again, in a guest per kernel where BPF LSM is active.

Each test boots one kernel and runs, inside, `pytest -m scenario tests/live`; what fails there is
named here. `HULLWATCH_VM_KERNELS` (default "6.1 6.12") and `HULLWATCH_VM_SELECT` (a -k expression)
narrow it down.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Emulated, a guest is five to ten times slower than the host; a hang must still end before CI does.
BOOT_AND_RUN = float(os.environ.get("HULLWATCH_VM_TIMEOUT", "1200"))
KERNELS = os.environ.get("HULLWATCH_VM_KERNELS", "6.1 6.12").split()


def _runner() -> ModuleType:
    """run.py, which is a program first and so no member of a package."""
    spec = importlib.util.spec_from_file_location("vm_run", Path(__file__).with_name("run.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vm = _runner()


@pytest.mark.slow
@pytest.mark.timeout(BOOT_AND_RUN + 60)
@pytest.mark.parametrize("series", KERNELS)
def test_scenarios_with_bpf_lsm(series: str, capfd: pytest.CaptureFixture[str]):
    try:
        image = vm.kernel(series)
        vm.vng()
    except vm.VmError as error:
        pytest.skip(str(error))
    _build_images()
    reports = ROOT / "build" / "reports" / f"vm-{series}"
    reports.mkdir(parents=True, exist_ok=True)
    report = reports / "guest.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-m", "scenario"]
    command += ["-o", "timeout=600", f"--junit-xml={report}", "--durations=5"]
    command += [str(ROOT / "tests" / "vm" / "test_guest.py"), str(ROOT / "tests" / "live")]
    if select := os.environ.get("HULLWATCH_VM_SELECT"):
        command += ["-k", select]
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    with capfd.disabled():
        print(f"\n--- guest: {image.name.removeprefix('vmlinuz-')} ---", flush=True)
        status = vm.run(image, command, env=env, cwd=ROOT, share=[reports], timeout=BOOT_AND_RUN)
        print(f"--- guest: exit {status} ---", flush=True)
    passed, failed = read_report(report)
    assert not failed, f"on {image.name}: " + ", ".join(failed)
    assert status == 0, f"the guest's pytest ended with {status}"
    assert passed, "the guest ran no test"


def read_report(path: Path) -> tuple[list[str], list[str]]:
    """Names of tests that passed and that failed, from the guest's junit file."""
    assert path.exists(), "the guest wrote no report: it did not come up, or was killed"
    passed, failed = [], []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        outcomes = {child.tag for child in case}
        if outcomes & {"failure", "error"}:
            failed.append(case.get("name", "?"))
        elif "skipped" not in outcomes:
            passed.append(case.get("name", "?"))
    return passed, failed


def _build_images() -> None:
    """Make the images here: the guest finds them in the shared folder, and need not emulate it."""
    from support import images
    from support.needs import missing

    if missing("busybox", "clang") is None:
        for recipe in (images.BUSYBOX, images.PYTHON, images.PAUSE):
            images.build(recipe)
