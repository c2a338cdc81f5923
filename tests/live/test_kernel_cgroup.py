"""The kernel announces a container's cgroup before its first process runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hullwatch.sensor.tier import cgroup2_root
from support.runc import Runc
from support.watch import Watch

pytestmark = pytest.mark.scenario


def test_made_and_removed(watch: Watch):
    name = f"hwtest-cgroup-{os.getpid()}"
    folder = Path(cgroup2_root()) / name

    def act() -> int:
        folder.mkdir()
        try:
            (folder / "in \x1b[1m ner").mkdir()
            (folder / "in \x1b[1m ner").rmdir()
            return folder.stat().st_ino
        finally:
            folder.rmdir()

    child = watch.act(act)
    made, inner = child.events("cgroup_mkdir")
    gone_inner, gone = child.events("cgroup_rmdir")
    assert made.obj == gone.obj == f"/{name}"
    assert made.num == gone.num == child.result
    assert inner.obj == gone_inner.obj == f"/{name}/in \x1b[1m ner"
    assert inner.num == gone_inner.num != made.num


def test_container_is_announced_before_its_first_process(watch: Watch, runc: Runc):
    container = runc.start(["sleep", "99"], name="announced")
    ident = container.cgroup_id()
    made = watch.expect("cgroup_mkdir", num=ident)
    assert made.obj == container.cgroups()[""]
    first = watch.expect("exec", cgroup=ident)
    assert made.ts < first.ts
    container.kill()
    container.wait()
    container.delete()
    assert watch.expect("cgroup_rmdir", num=ident).obj == made.obj
