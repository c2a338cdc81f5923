"""The scenarios again, in a guest per kernel where BPF LSM is active.

Each kernel boots in a guest of its own, all at once, and runs, inside,
`pytest -m scenario tests/live`; what fails there is named here. `HULLWATCH_VM_KERNELS` (default
"6.1 6.12") and `HULLWATCH_VM_SELECT` (a -k expression) narrow it down.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Emulated, a guest is five to ten times slower than the host; a hang must still end before CI does.
BOOT_AND_RUN = float(os.environ.get("HULLWATCH_VM_TIMEOUT", "1800"))
KERNELS = os.environ.get("HULLWATCH_VM_KERNELS", "6.1 6.12").split()
# What is long and the same on every kernel with BPF LSM runs in one of the guests, so that both end
# at about the same time. What a kernel does in its own way runs in both.
ONLY_ON = {
    "6.1": (
        *("test_faults.py", "test_capture.py", "test_privileges.py", "test_kernel_overflow.py"),
        "test_plugins.py",
    ),
    "6.12": ("test_attacks_pack.py", "test_guard_bypasses.py", "test_fixtures.py"),
}
# What takes minutes there, and whose hooks the others run through: on the host alone.
ON_HOST = (
    *("test_attacks_pod.py", "test_canary.py", "test_short_lived.py"),
    "test_kernel_governor.py",
)


def _runner() -> ModuleType:
    """run.py, which is a program first and so no member of a package."""
    spec = importlib.util.spec_from_file_location("vm_run", Path(__file__).with_name("run.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vm = _runner()


class Guest:
    """One kernel's run, begun at once; a guest has one CPU, so that two of them run side by side.

    Its lines are printed as they come, each with the kernel's series before it.
    """

    def __init__(self, series: str) -> None:
        self.image = vm.kernel(series)
        reports = ROOT / "build" / "reports" / f"vm-{series}"
        reports.mkdir(parents=True, exist_ok=True)
        self.report = reports / "guest.xml"
        self.report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-m", "scenario"]
        # What passed leaves nothing: files there are memory.
        command += ["-o", "tmp_path_retention_policy=failed"]
        command += ["-o", "timeout=600", f"--junit-xml={self.report}", "--durations=25"]
        command += [str(ROOT / "tests" / "vm" / "test_guest.py"), str(ROOT / "tests" / "live")]
        command += [f"--ignore=tests/live/{name}" for name in ON_HOST]
        for other in {*ONLY_ON, *KERNELS} - {series}:
            if other in KERNELS:
                command += [f"--ignore=tests/live/{name}" for name in ONLY_ON.get(other, ())]
        if select := os.environ.get("HULLWATCH_VM_SELECT"):
            command += ["-k", select]
        env = ["env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1", "PYTHONFAULTHANDLER=1"]
        runner = [
            sys.executable,
            str(vm.__file__),
            "--kernel",
            str(self.image),
            "--share",
            str(reports),
        ]
        self.process = subprocess.Popen(
            [*runner, "--timeout", str(BOOT_AND_RUN), "--", *env, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._printer = threading.Thread(target=self._print, args=(series,), daemon=True)
        self._printer.start()

    def _print(self, series: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            os.write(1, f"[{series}] ".encode() + line)

    def wait(self) -> int:
        status = self.process.wait(BOOT_AND_RUN + 30)  # run.py ends it at BOOT_AND_RUN
        self._printer.join(10)
        return status

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture(scope="module")
def guests() -> Iterator[dict[str, Guest | str]]:
    """By series: the run, or why there is none."""
    _build_images()
    begun: dict[str, Guest | str] = {}
    try:
        for series in KERNELS:
            try:
                vm.vng()
                begun[series] = Guest(series)
            except vm.VmError as error:
                begun[series] = str(error)
        yield begun
    finally:
        for guest in begun.values():
            if isinstance(guest, Guest):
                guest.end()


@pytest.mark.slow
@pytest.mark.timeout(BOOT_AND_RUN + 60)
@pytest.mark.parametrize("series", KERNELS)
def test_scenarios_with_bpf_lsm(
    series: str, guests: dict[str, Guest | str], capfd: pytest.CaptureFixture[str]
):
    guest = guests[series]
    if isinstance(guest, str):
        pytest.skip(guest)
    with capfd.disabled():  # its lines are shown as they come
        status = guest.wait()
    passed, failed = read_report(guest.report)
    assert not failed, f"on {guest.image.name}: " + ", ".join(failed)
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
