"""The day's workloads: each is a client and its services, in containers of their own.

They share a network namespace, as in a pod; the services' names lead to one address that is not
private (TEST-NET-2), so that rules about public addresses see what they would see in the world.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from day.image import Day
from hullwatch.demo.bundle import Mount
from hullwatch.demo.runc import Container, Network, Runc, RuncError

__all__ = ["DAY", "Part", "Ran", "Workload", "run"]

SCRIPTS = Path(__file__).with_name("scripts")
ADDRESS = "198.51.100.10"
FULL, QUICK = 5, 1  # ROUNDS, see scripts/common.sh


@dataclass(frozen=True)
class Part:
    """A container: the last part of its image's name, and what it runs."""

    image: str
    argv: tuple[str, ...]
    tty: bool = False


@dataclass(frozen=True)
class Workload:
    """client: runs to its end. services: until the client has ended.
    quick: part of the quick day. seconds: the deadline."""

    name: str
    what: str
    client: Part
    services: tuple[Part, ...] = ()
    quick: bool = True
    seconds: float = 300


@dataclass(frozen=True)
class Ran:
    """status: the client's, 0 where all went well, -1 where it could not start or did not end.
    said: the end of its output."""

    workload: Workload
    containers: tuple[str, ...]
    status: int
    said: str


def _script(image: str, name: str, *arguments: str, tty: bool = False) -> Part:
    return Part(image, ("bash", f"/day/{name}", *arguments), tty)


_FILES = Part("files", ("python3", "-m", "http.server", "80", "-d", "/cache"))
_GIT = Part(
    "git-daemon", ("git", "daemon", "--export-all", "--reuseaddr", "--base-path=/cache/git")
)
_NGINX = Part("nginx", ("/usr/sbin/nginx", "-g", "daemon off;"))
_LLM = Part("llm", ("python3", "/day/llm.py"))

DAY = (
    Workload("pip", "wheels, sdists, a C build", _script("ci-python", "pip.sh"), (_FILES,)),
    Workload("uv", "uv, uvx, pipx", _script("ci-uv", "uv.sh"), (_FILES,)),
    Workload("npm", "300 packages, tsc, eslint, jest", _script("ci-node", "npm.sh")),
    Workload("git", "clones by git:// and http, gc", _script("ci-git", "git.sh"), (_FILES, _GIT)),
    Workload("pytest", "click's own tests", _script("ci-pytest", "pytest.sh"), (_FILES,)),
    Workload(
        "postgres",
        "initdb, pgbench, dump and restore",
        _script("psql", "pgbench.sh"),
        (_script("postgres", "postgres.sh"),),
    ),
    Workload(
        "redis",
        "redis-benchmark, saves",
        _script("redis-cli", "redis-benchmark.sh"),
        (_script("redis", "redis.sh"),),
    ),
    Workload("web", "nginx, http.server, curl", _script("curl", "web.sh"), (_NGINX,)),
    Workload(
        "mcp-python",
        "servers fetch, git, time, sqlite",
        _script("agent-python", "mcp.sh", "/day/mcp-python.json"),
        (_NGINX,),
    ),
    Workload(
        "mcp-node",
        "servers filesystem, everything, memory, thinking",
        _script("agent-node", "mcp.sh", "/day/mcp-node.json"),
    ),
    Workload(
        "mcp-launchers",
        "servers filesystem by npx, time by uvx",
        _script("agent-npx", "mcp.sh", "/day/mcp-launchers.json"),
        (_FILES,),
        quick=False,
    ),
    Workload("agent", "OpenAI's SDK, tools, streaming", _script("clerk", "agent.sh"), (_LLM,)),
    Workload(
        "maintenance",
        "apt, logrotate, cron.daily, backup",
        _script("legacy", "maintenance.sh"),
    ),
    Workload(
        "devshell",
        "GNU hello built at a terminal",
        _script("workspace", "devshell.sh", tty=True),
    ),
)


def run(workload: Workload, day: Day, runc: Runc, *, quick: bool) -> Ran:
    """Start the services, run the client to its end, remove all."""
    mounts = [Mount(SCRIPTS, "/day"), Mount(day.cache, "/cache")]
    env = {"ROUNDS": str(QUICK if quick else FULL)}
    started: list[Container] = []
    with Network(workload.name) as network:
        network.add_address(f"{ADDRESS}/32")
        try:
            for part in (*workload.services, workload.client):
                container = runc.start(
                    part.argv,
                    name=f"{workload.name}-{part.image}",
                    image=day.image(part.image),
                    network=network.path,
                    mounts=mounts,
                    env=env,
                    tty=part.tty,
                )
                started.append(container)
            done = started[-1].wait(workload.seconds)
            said = done.stdout + done.stderr
            if done.status:
                said += "".join(f"\n{one.name}: {one.stderr[-500:]}" for one in started[:-1])
        except (RuncError, subprocess.TimeoutExpired) as error:
            return Ran(workload, tuple(one.id for one in started), -1, str(error))
        finally:
            for container in reversed(started):
                container.delete()
    return Ran(workload, tuple(one.id for one in started), done.status, said[-3000:])
