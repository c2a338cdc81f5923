"""Containers whose runtime hands their listener to `hullwatch seccomp-agent`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.held import missing_seccomp
from support.runc import Runc
from support.scratch import poll

pytestmark = [
    pytest.mark.skipif(missing_seccomp() is not None, reason=str(missing_seccomp())),
    pytest.mark.timeout(120),
]

POLICY = """
@id("no-passwords")
forbid (principal == Workload::"box", action == Action::"open-read", resource is Path)
when { resource.path == "/etc/passwd" };
@id("no-port")
forbid (principal, action == Action::"connect", resource is Address)
when { resource has port && resource.port == 9999 };
@id("no-odd")
forbid (principal, action == Action::"exec", resource is Binary)
when { resource.name == "odd" && context has image };
"""
TRIES = """
for path in /etc/passwd /proc/self/root/etc/passwd /proc/1/root/etc/passwd /tmp/link; do
    cat $path > /dev/null 2>&1 && echo read $path
done
cat /etc/shadow > /dev/null 2>&1 && echo shadow
cat /etc/hostname
grep NSpid /proc/self/status | cut -f 2
nc -w 1 127.0.0.1 9999 2>&1 | grep -o 'not permitted'
nc -w 1 127.0.0.1 9998 2>&1 | grep -o refused
umask 077; echo x > /tmp/made; stat -c '%a %u' /tmp/made
/tmp/odd 2>&1 | grep -o -i denied; /tmp/odd 2>&1 | grep -o 'not permitted'
"""


class Agent:
    def __init__(self, folder: Path) -> None:
        self.socket = folder / "seccomp.sock"
        self.policy = folder / "policy.cedar"
        self.policy.write_text(POLICY)
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HULLWATCH_APPROVALS": str(folder / "desks"),
            "HULLWATCH_DECISIONS": str(folder / "log"),
        }
        self.process = subprocess.Popen(
            [*self._command("seccomp-agent"), "--json"],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        poll(self.socket.exists, seconds=30, waiting_for="the agent")

    def _command(self, name: str) -> list[str]:
        options = ["--policy", str(self.policy), "--listen", str(self.socket)]
        return [sys.executable, "-m", "hullwatch", name, *options]

    def place(self, config: Path) -> None:
        """The section in a container's config.json."""
        command = [*self._command("seccomp-profile"), "--into", str(config)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        config.write_text(done.stdout)

    def end(self) -> list[dict[str, str]]:
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.mark.parametrize("user", [0, 1000])
def test_a_container_is_held(runc: Runc, agent: Agent, user: int) -> None:
    bundle = runc.make(["sh", "-c", TRIES], name="box", user=user)
    (bundle.rootfs / "tmp").mkdir(exist_ok=True)
    (bundle.rootfs / "tmp").chmod(0o1777)
    (bundle.rootfs / "tmp/link").symlink_to("/etc/passwd")
    odd = bundle.rootfs / "tmp/odd"
    odd.write_text("#!/bin/sh\necho ran\n")
    odd.chmod(0o755)
    (bundle.rootfs / "etc/shadow").chmod(0o600)
    agent.place(bundle.folder / "config.json")
    done = runc.launch(bundle).wait()
    # What root of the container may read another user of it may not: nobody reads with our rights.
    expected = ["shadow"] if user == 0 else []
    lines = done.stdout.split("\n")
    assert "container" in lines, done
    number = next((line for line in lines if line.isdecimal()), "")
    assert number and int(number) < 100, "a number in the container's own pid namespace"
    lines.remove(number)
    assert lines == [
        *expected,
        "container",
        "not permitted",
        "refused",
        f"600 {user}",
        "not permitted",
        "",
    ], done.stdout + done.stderr
    told = agent.end()
    assert [(one["event"], one["name"]) for one in told] == [("held", "box"), ("ended", "box")]
    assert told[0]["container"] == bundle.id


def test_what_is_started_in_it_later_is_held_too(runc: Runc, agent: Agent) -> None:
    bundle = runc.make(["sleep", "60"], name="box")
    agent.place(bundle.folder / "config.json")
    container = runc.launch(bundle)
    allowed = container.exec(["cat", "/etc/hostname"])
    assert allowed.stdout == "container\n", allowed
    refused = container.exec(["cat", "/etc/passwd"])
    assert refused.status == 1 and "not permitted" in refused.stderr
    agent.process.kill()
    agent.process.wait()
    # Nobody answers any more: the kernel does.
    assert container.exec(["cat", "/etc/hostname"]).status != 0
