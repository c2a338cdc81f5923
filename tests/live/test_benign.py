"""Real work that no rule of the pack is about: an install, a clone, a store under load.

bench/benign.py has a whole day of it; this is done by programs of this host, on an overlay over its
root folder, and reaches no network.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent import Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Network, Runc
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(600)

WORK = """
set -eu
export HOME=/tmp/home PIP_DISABLE_PIP_VERSION_CHECK=1; mkdir -p $HOME
"""
GIT = """
git config --global safe.directory '*'
git daemon --export-all --reuseaddr --base-path=/given --listen=127.0.0.1 --detach \
    --pid-file=/tmp/git.pid
for try in $(seq 100); do
    git ls-remote -q git://127.0.0.1/source >/dev/null 2>&1 && break
    sleep 0.1
done
git clone -q git://127.0.0.1/source /tmp/work
cd /tmp/work
git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m more
git log --oneline
git gc -q
kill "$(cat /tmp/git.pid)"
"""
PIP = """
/usr/bin/python3 -m venv /tmp/app
/tmp/app/bin/pip install -q --no-index --find-links /given hwsmoke
/tmp/app/bin/hwsmoke
"""
REDIS = """
redis-server --port 7001 --daemonize yes --dir /tmp >/dev/null
for try in $(seq 100); do redis-cli -p 7001 ping >/dev/null 2>&1 && break; sleep 0.1; done
redis-benchmark -p 7001 -q -n 2000 -c 10 -t set,get && redis-cli -p 7001 shutdown
"""
WORKLOADS = {"git": ("git", GIT), "pip": ("python3", PIP), "redis": ("redis-server", REDIS)}


def make_wheel(folder: Path) -> None:
    """A wheel with a command (binary distribution format 1.0), without anything to build it."""
    info = "hwsmoke-1.dist-info"
    parts = {
        "hwsmoke.py": "import json, sqlite3\ndef main():\n    print(json.dumps({'ran': True}))\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hwsmoke\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nhwsmoke = hwsmoke:main\n",
    }
    parts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*parts, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "hwsmoke-1-py3-none-any.whl", "w") as wheel:
        for name, text in parts.items():
            wheel.writestr(name, text)


def make_repository(folder: Path) -> None:
    work = folder / "source"
    work.mkdir()
    for number in range(50):
        (work / f"file-{number}").write_text(f"{number}\n" * number)
    (work / "sitecustomize.py").write_text("")
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_wheel(folder)
    if shutil.which("git"):
        make_repository(folder)
    return folder


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    with Agent(tmp_path_factory.mktemp("benign") / "store") as started:
        yield started


@pytest.mark.parametrize("name", WORKLOADS)
def test_real_work_gives_no_finding(
    name: str, agent: Agent, given: Path, runc: Runc, tmp_path: Path
):
    program, script = WORKLOADS[name]
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    host = Image("bench.test/host:1", "sha256:0", Path("/"), Path("/"))
    with Network(name) as network:
        container = runc.start(
            ["bash", "-c", WORK + script],
            name=f"benign-{name}",
            image=host,
            network=network.path,
            mounts=[Mount(given, "/given")],
        )
        done = container.wait(120)
    assert done.status == 0, done.stderr + done.stdout
    agent.settle()
    found: list[dict[str, Any]] = agent.stored(container.id)
    assert [(one["rule"], one["output"]) for one in found] == []
    seen = agent.query(
        "SELECT count(*) AS n FROM events WHERE class = 'exec' AND container_id = $1", container.id
    )
    assert seen[0]["n"] > 3  # it was watched
    status = agent.status()
    assert status is not None and (status["losses"], status["faults"]) == ({}, {})
