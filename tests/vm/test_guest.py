"""What the guest must be for the scenarios to prove anything. Skipped on the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.needs import in_vm

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(not in_vm(), reason="runs in the guest that test_scenarios.py boots"),
]


def test_bpf_lsm_is_active():
    assert "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",")


def test_kernel_has_btf_and_the_file_systems_bpf_needs():
    assert Path("/sys/kernel/btf/vmlinux").stat().st_size > 1 << 20
    mounts = Path("/proc/self/mounts").read_text()
    for point in ("/sys/fs/bpf bpf", "/sys/kernel/tracing tracefs", "/sys/fs/cgroup cgroup2"):
        assert point in mounts
