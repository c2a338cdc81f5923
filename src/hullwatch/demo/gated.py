"""An agent of this host with `hullwatch mcp --policy` before its MCP server in a container."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hullwatch.decide.desk import DeskError, ask
from hullwatch.demo.runc import Container
from hullwatch.demo.scenario import Stage
from hullwatch.demo.scratch import ends_with_us

__all__ = ["Gated", "hullwatch"]

NAME = "desk"
"""The server's name, to policies too."""
_WISH = "Archive /srv/reports/q3.txt, then delete it"
_AGENT = Path(__file__).with_name("workload") / "agent.py"


class Gated:
    """Starts on construction. The server is the container's, started in it as `docker exec` would.

    As of a Container: id, name, stdout, stderr, running.
    """

    id = ""  # it is in no container
    name = "assistant"

    def __init__(self, stage: Stage, store: Path, server: Container) -> None:
        self._desks = stage.home / "desks"
        self._out, self._err = stage.home / "assistant.out", stage.home / "assistant.err"
        self._env = {
            **os.environ,
            "HULLWATCH_APPROVALS": str(self._desks),
            "HULLWATCH_CALLS": str(stage.calls),
            "HULLWATCH_MCP_STATE": str(stage.home / "mcp"),
        }
        inside = ("runc", "exec", server.id, "python3", "/srv/agent/mcp_server.py", NAME, NAME)
        gateway = (
            *(sys.executable, "-m", "hullwatch", "mcp", "--name", NAME, "--policy", "applied"),
            *("--store", str(store), "--log", str(store), "--", *inside),
        )

        # The model is in the containers' network.
        inside_network = ("nsenter", f"--net={stage.network}")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                (*inside_network, sys.executable, str(_AGENT), stage.model, _WISH, *gateway),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )

    @property
    def stdout(self) -> str:
        """Of the agent."""
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """Of the agent, the gateway and the server."""
        return self._err.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def arrived(self) -> list[str]:
        """Names of the tools whose calls the server has seen, by its own word."""
        lines = self.stderr.splitlines()
        return [line.removeprefix("arrived: ") for line in lines if line.startswith("arrived: ")]

    def waiting(self) -> list[dict[str, Any]]:
        """What waits for a person, as `hullwatch approvals` lists it."""
        found: list[dict[str, Any]] = []
        for path in self._desks.glob("*.sock"):
            try:
                found += ask(path, ask="list")["held"]
            except (OSError, DeskError, KeyError):
                continue  # it is just starting, or has ended
        return found

    def answer(self, held: str, yes: bool, why: str) -> str:
        """With `hullwatch approvals`, which is no child of who asked; what it printed."""
        word = "approve" if yes else "deny"
        return hullwatch("approvals", word, held, "--why", why, env=self._env)

    def close(self) -> None:
        """The gateway ends with its client, and the server with the gateway."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def hullwatch(*argv: str, env: dict[str, str] | None = None, seconds: float = 60) -> str:
    """Run a command of ours as a person would; what it printed. RuntimeError with its words."""
    command: Sequence[str] = (sys.executable, "-m", "hullwatch", *argv)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=env, check=False
    )
    if done.returncode:
        raise RuntimeError(f"hullwatch {argv[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
