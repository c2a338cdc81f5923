"""A container whose agent does what it is told: driver.py and the files that attacks find there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.attacks.attack import Attack
from support.bundles import Mount
from support.images import Image
from support.runc import Container, Runc

__all__ = ["done", "drive"]

DRIVER = Path(__file__).with_name("driver.py")
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
# What the attacks find there; not attacks themselves.
PREPARE = """
set -e
mkdir -p /opt/bin /models /srv/app /srv/vectors /usr/lib/python3/dist-packages
mkdir -p /srv/mine; echo 'x = 1' > /srv/mine/mine.py; echo x > /models/mine.dill
mkdir -p /root/.aws /root/.ssh /root/.kube /root/.docker /root/.bitcoin
mkdir -p /root/.claude/hooks /root/.claude/projects/p
for name in ollama claude node; do ln -s /usr/bin/python3 /opt/$name; done
for name in gh git xdg-open sudo trufflehog pip npx nvidia-ctk ssh curl pg_dump psql pkill; do
    ln -s /bin/true /opt/bin/$name
done
for file in .kube/config .docker/config.json .bitcoin/wallet.dat .bash_history .npmrc; do
    echo x > /root/$file
done
echo '{}' > /root/.claude/projects/p/1.jsonl
echo '#!/bin/true' > /root/.claude/hooks/pre.sh; chmod 755 /root/.claude/hooks/pre.sh
echo x > /models/m.pkl; echo x > /root/.sh_history
echo x > /models/old.gguf; echo x > /srv/vectors/chroma.sqlite3
echo x > /root/.aws/credentials; echo x > /root/.ssh/id_ed25519
echo x > /root/.ssh/id_ed25519.pub
echo x > /models/tiny.gguf; echo OPENAI_API_KEY=x > /srv/app/.env
echo 'def main(): pass' > /srv/app/main.py
cp /bin/busybox /tmp/kworker; cp /bin/busybox /srv/helper; cp /bin/busybox /srv/touch
"""


def drive(
    runc: Runc, image: Image, name: str, folder: Path, attacks: Sequence[Attack], **options: Any
) -> Container:
    """A container whose agent does all of `attacks`; its files are prepared before."""
    place = folder / name
    place.mkdir()
    (place / "attacks.json").write_text(json.dumps([[a.name, a.code] for a in attacks]))
    (place / "driver.py").write_text(DRIVER.read_text())
    (place / "token").write_text("planted")
    mounts = [Mount(place, "/attacks"), Mount(place, SECRETS), *options.pop("mounts", ())]
    argv = ["python3", "/attacks/driver.py", "/attacks/attacks.json"]
    env = {"PYTHONDONTWRITEBYTECODE": "1"} | options.pop("env", {})
    bundle = runc.make(argv, name=name, image=image, mounts=mounts, env=env, **options)
    # From outside, and before any of it is watched as this container's.
    subprocess.run(["chroot", bundle.rootfs, "/bin/sh", "-c", PREPARE], check=True)
    return runc.launch(bundle)


def done(container: Container, attacks: Sequence[Attack]) -> None:
    """Wait for the driver's end; an attack that could not be carried out fails here."""
    lines = container.wait_for_output("done", 600).splitlines()[:-1]
    said = [json.loads(line) for line in lines]
    assert [one["attack"] for one in said] == [one.name for one in attacks]
    failed = [f"{one['attack']}: {one['error']}" for one in said if one["error"]]
    assert not failed, "\n".join(failed)
