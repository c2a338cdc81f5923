"""A canary in a container's reach: who opens it is found, who only looks is not."""

from __future__ import annotations

import subprocess

import pytest

from hullwatch.cli import main
from support.agent import Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Runc
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]


def test_any_use_of_a_canary_is_a_finding(tmp_path, python_image: Image, capsys):
    if reason := missing("runc") or missing_bpf():
        pytest.skip(reason)
    home, rules = tmp_path / "home", tmp_path / "rules"
    for path, form, by in (
        (".aws/credentials", "aws", "reader"),
        ("spare/api_key", "key", "mover"),
    ):
        seen = ["--seen-as", f"/home/agent/{path}", "--container", by, "--into", str(rules)]
        assert main(["canary", "plant", str(home / path), "-p", "--as", form, *seen]) == 0
    # One on the host, at a path that containers have files of their own at.
    argv = ["canary", "plant", str(tmp_path / "api_key"), "--into", str(rules)]
    assert main(argv) == 0
    planted = [(home / path).read_text() for path in (".aws/credentials", "spare/api_key")]
    capsys.readouterr()
    mounts = [Mount(home, "/home/agent", writable=True)]
    with Agent(tmp_path / "store", rules=[rules]) as agent, Runc(python_image) as runc:
        for name, command in (
            ("looker", "ls -lR /home/agent && cat /etc/hostname; echo done"),
            ("reader", "cat /home/agent/.aws/credentials > /dev/null; echo done"),
            ("other", f"mkdir -p {tmp_path} && echo > {tmp_path}/api_key; echo done"),
            ("mover", "mv /home/agent/spare/api_key /home/agent/spare/k; echo done"),
        ):
            one = runc.start(["/bin/sh", "-c", command], name=name, mounts=mounts)
            one.wait_for_output("done", 60)
        subprocess.run(["cat", tmp_path / "api_key"], check=True, capture_output=True)
        agent.settle()
        found = agent.stored()
    assert {one["rule"].split()[0] for one in found} == {"Canary"}
    text = {one["container_name"]: one["output"] for one in found}
    assert set(text) == {"reader", "mover", ""}
    assert "command=cat" in text[""]
    assert "/home/agent/.aws/credentials" in text["reader"] and "how=openat " in text["reader"]
    assert "how=rename" in text["mover"]
    values = [value.encode() for text in planted for value in text.split() if len(value) > 18]
    assert values
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [value for value in values if value in content], path
