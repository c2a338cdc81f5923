"""The demo's stage: a model server, an agent whose MCP server has a malicious plugin, and the host
outside that the plugin sends its loot to. The agent works twice: watched, and held to policies.
All of it is real but the loot and the addresses."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from hullwatch.context import tool_call
from hullwatch.demo import image, runc
from hullwatch.demo.bundle import Mount
from hullwatch.demo.image import Image
from hullwatch.demo.listener import Listener
from hullwatch.demo.runc import Container, Network, Runc
from hullwatch.demo.scratch import dead_sessions, remove_tree, session_below

__all__ = ["DROP", "EXPECTED", "HELD", "STOPPED", "Stage", "remove_leftovers"]

HOME = Path("/run/hullwatch-demo")
DROP = ("203.0.113.7", 443)
"""Of TEST-NET-3 (RFC 5737), which is nobody's; it exists in the demo's own namespace only."""
PORT = 8000
WISH = "Summarise /srv/reports/q3.txt"
EXPECTED = (
    "Service account token read by a tool or plugin",
    "Cloud credentials read in a container",
    "Shell started by an AI agent",
    "Network tool started in an AI container",
    "Public address contacted by a shell or text tool below an AI agent",
    "Secret read, then an upload tool in the same process tree",
    "Secret carried to a public address by what a tool started",
)
STOPPED = "Policy stopped an action"
HELD = (
    *(rule for rule in EXPECTED if "public address" not in rule.lower()),
    STOPPED,
)
"""What the same attack comes to where policies are in force: it reads, and nothing leaves."""
_WORKLOAD = Path(__file__).with_name("workload")
_REPORT = "Revenue grew by four percent. Costs grew by five.\n"
_GO = "go"
_ENV = {"PYTHONDONTWRITEBYTECODE": "1"}


def remove_leftovers() -> None:
    """What demos have left that were killed."""
    dead = dead_sessions(HOME)
    runc.delete_all(dead)
    for folder in dead:
        remove_tree(folder)


class Stage:
    """Made step by step, in this order: images, network, model server, agent. `close` removes it
    all, however far it got."""

    def __init__(self) -> None:
        remove_leftovers()
        self.home = session_below(HOME)
        self.token = f"planted-{secrets.token_hex(16)}"
        self._images: dict[str, Image] = {}
        self._runc: Runc | None = None
        self._network: Network | None = None
        self.listener: Listener | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Containers, namespace and folder. May be called again."""
        if self._runc is not None:
            self._runc.close()
        if self.listener is not None:
            self.listener.close()
        if self._network is not None:
            self._network.delete()
        remove_tree(self.home)

    def make_images(self) -> None:
        """Two root folders, each with its own programs; FileNotFoundError names what is missing."""
        base = self.home / "images" / "base"
        image.fill_python(base)
        (base / "var/run").symlink_to("../run")
        for name, fill in (("model-server", self._fill_model_server), ("agent", self._fill_agent)):
            root = base.with_name(name)
            # Hard links: no container can write through its overlay to what they share.
            shutil.copytree(base, root, symlinks=True, copy_function=os.link)
            fill(root)
            reference = f"hullwatch.demo/{name}:1"
            self._images[name] = Image(reference, image.digest_of(root), root)
        self._runc = Runc(self._images["agent"], self.home)

    def _fill_model_server(self, root: Path) -> None:
        (root / "models").mkdir()
        (root / "models/tiny.safetensors").write_bytes(secrets.token_bytes(1 << 20))
        _copy("model_server.py", root / "srv/model")

    def _fill_agent(self, root: Path) -> None:
        for name in ("agent.py", "mcp_server.py"):
            _copy(name, root / "srv/agent")
        for folder in ("plugins", "desk"):
            for file in (_WORKLOAD / folder).glob("*.py"):
                _copy(f"{folder}/{file.name}", root / "srv/agent" / folder)
        shutil.copy(tool_call.__file__, root / "srv/agent")
        image.write(root, "srv/reports/q3.txt", _REPORT)
        keys = (
            f"[default]\naws_access_key_id = {self.token}\naws_secret_access_key = {self.token}\n"
        )
        image.write(root, "root/.aws/credentials", keys, 0o600)

    def make_network(self) -> None:
        """One namespace for both containers, as in a pod, and the address outside."""
        self._network = Network("pod")
        self._network.add_address(f"{DROP[0]}/32")
        self.listener = Listener(self._network.path, *DROP)

    def start_model_server(self) -> tuple[Container, str]:
        """The container, and what it says when it is ready."""
        server = self._start("model-server", ["python3", "/srv/model/model_server.py", str(PORT)])
        return server, server.wait_for_output("serving").strip()

    def start_agent(self, name: str = "agent", *, waits: bool = False) -> Container:
        """It gets to work at once, or where it `waits`, when `let_go` says so."""
        planted = self.home / "serviceaccount"
        image.write(planted, "token", self.token)
        mounts = [Mount(planted, "/run/secrets/kubernetes.io/serviceaccount")]
        if waits or self.calls.exists():
            mounts.append(Mount(self.calls.parent, "/run/hullwatch", writable=True))
        env = {"AGENT_WAITS_FOR": f"/run/hullwatch/{_GO}"} if waits else {}
        argv = ["python3", "/srv/agent/agent.py", self.model, WISH]
        return self._start("agent", argv, *mounts, name=name, env=env)

    def let_go(self) -> None:
        """To work, whoever waits."""
        self.calls.with_name(_GO).touch()

    @property
    def model(self) -> str:
        """The model server's address, in the containers' network."""
        return f"http://127.0.0.1:{PORT}"

    @property
    def network(self) -> Path:
        """The containers' network namespace."""
        assert self._network
        return self._network.path

    @property
    def calls(self) -> Path:
        """Where an agent is to listen for what the containers tell of their tool calls."""
        return self.home / "run" / "calls.sock"

    def _start(
        self,
        image: str,
        argv: list[str],
        *mounts: Mount,
        name: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Container:
        assert self._runc
        return self._runc.start(
            argv,
            name=name or image,
            image=self._images[image],
            network=self.network,
            mounts=mounts,
            env={**_ENV, **(env or {})},
        )


def _copy(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_WORKLOAD / name, folder)
