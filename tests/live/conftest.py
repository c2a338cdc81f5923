"""Fixtures for tests against real containers. What they give is in tests/support/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.containerd import Containerd
from support.leftovers import remove_leftovers
from support.needs import missing
from support.runc import Runc
from support.scratch import remove_tree, session
from support.watch import Watch, missing_bpf


@pytest.fixture(scope="session", autouse=True)
def _session_folder() -> Iterator[None]:
    """Start clean after runs that were killed, and leave nothing behind."""
    if missing("runc", "ip") is not None:
        yield
        return
    remove_leftovers()
    try:
        yield
    finally:
        remove_tree(session())


@pytest.fixture(scope="session")
def busybox_image() -> images.Image:
    """A few hundred applets, hard-linked to one static program."""
    if reason := missing("busybox"):
        pytest.skip(reason)
    return images.build(images.BUSYBOX)


@pytest.fixture(scope="session")
def python_image() -> images.Image:
    """busybox and Debian's Python with its standard library."""
    if reason := missing("busybox"):
        pytest.skip(reason)
    return images.build(images.PYTHON)


@pytest.fixture
def runc(busybox_image: images.Image) -> Iterator[Runc]:
    """Starts runc containers; those still there at the end of the test are removed."""
    if reason := missing("runc", "ip"):
        pytest.skip(reason)
    with Runc(busybox_image) as started:
        yield started


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """A containerd of our own; start pods with its pod()."""
    if reason := missing("containerd", "ctr", "runc", "clang"):
        pytest.skip(reason)
    if not Path("/usr/lib/cni/ptp").exists():
        pytest.skip("needs CNI plugins: apt-get install containernetworking-plugins")
    with Containerd() as started:
        yield started


@pytest.fixture(scope="module")
def module_watch() -> Iterator[Watch]:
    """One sensor in record mode for a module; use `watch`."""
    if reason := missing_bpf():
        pytest.skip(reason)
    started = Watch()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def watch(module_watch: Watch) -> Watch:
    """A running sensor that records everything, with nothing seen yet."""
    module_watch.clear()
    return module_watch
