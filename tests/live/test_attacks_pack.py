"""Every rule of the pack, attacked in real containers through the whole agent.

All attacks run in two containers under one agent, once; the tests then ask the store what it knows.
Each attack gives exactly one finding for each of its rules, and nothing that is not listed here is
found: neither in the attacked containers nor in those that do harmless things of the same kind.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.cli.alert import chain_of
from hullwatch.detect.ruleset import load
from support.agent import PACK, Agent
from support.bundles import Mount
from support.images import Image
from support.needs import missing
from support.runc import Container, Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

DRIVER = Path(__file__).with_name("attacks") / "driver.py"
SECRETS = "/run/secrets/kubernetes.io/serviceaccount"
LONG_NAME = ".".join(["c2VjcmV0LWRhdGEtdGhhdC1sZWF2ZXM"] * 4) + ".example.com"


class Attack(NamedTuple):
    """code: for the driver. found: rule → the object of its one finding (a regular expression).
    by: the name of the process that did it. privileged: needs a container with all rights."""

    name: str
    code: str
    found: dict[str, str]
    by: str = "python3"
    privileged: bool = False


SHELL = "Shell started by an AI agent"
UPPER = "Program that is not in the image run by an AI agent"
PUBLIC = "Public address contacted by a shell or text tool below an AI agent"
NETWORK_TOOL = "Network tool started in an AI container"
NAMESPACE = "Namespace entered or made in a container"

ATTACKS = (
    Attack("shell", 'run("/bin/sh", "-c", "exit 0")', {SHELL: "/bin/sh"}, "sh"),
    Attack(
        "download",
        'run("/bin/wget", "-q", "-O", "/dev/null", "http://127.0.0.1:1/x")',
        {"Download tool started by an AI agent": "/bin/wget"},
        "wget",
    ),
    Attack(
        "pip",
        'run("/usr/bin/python3", "-m", "pip", "install", "reqeusts")',
        {"Package installed at run time in an AI container": "/usr/bin/python3.*"},
    ),
    Attack(
        "network-tool",
        'run("/bin/nslookup", "example.com", "127.0.0.1")',
        {NETWORK_TOOL: "/bin/nslookup"},
        "nslookup",
    ),
    Attack(
        "model-server",
        'run("/opt/ollama", "-c", "import os; os.execv(\'/bin/true\', [\'true\']) '
        'if os.fork() == 0 else os.wait()")',
        {"Unexpected child of a model server": "/bin/true"},
        "true",
    ),
    Attack(
        "scratch",
        'run("/tmp/kworker")',
        {"Program run from a scratch directory in a container": "/tmp/kworker", UPPER: "/tmp/.*"},
        "kworker",
    ),
    Attack("dropped", 'run("/srv/helper")', {UPPER: "/srv/helper"}, "helper"),
    Attack(
        "memfd",
        'fd = os.memfd_create("payload", 0)\n'
        'os.write(fd, open("/bin/busybox", "rb").read())\n'
        'os.execv(f"/proc/self/fd/{fd}", ["true"]) if os.fork() == 0 else os.wait()',
        {"Program run from memory in a container": ".*payload.*"},
        r"\d+",
    ),
    Attack(
        "encoded",
        'run("/bin/ash", "-c", "echo aWQ= | base64 -d | cat")',
        {"Encoded command run below an AI agent": "/bin/ash", SHELL: "/bin/ash"},
        "ash",
    ),
    Attack(
        "assistant",
        'run("/opt/claude", "-c", "pass", "--dangerously-skip-permissions")',
        {"AI assistant started without permission checks by another program": "/usr/bin/python3.*"},
        "claude",
    ),
    Attack(
        "mcp-config",
        'touch("/root/.mcp.json")',
        {"AI assistant configuration written": "/root/.mcp.json"},
    ),
    Attack(
        "instructions",
        'touch("/srv/CLAUDE.md")',
        {"Agent instructions written by another program": "/srv/CLAUDE.md"},
    ),
    Attack(
        "pth",
        'touch("/usr/lib/python3/dist-packages/evil.pth")',
        {"Python start-up hook written": "/usr/lib/python3/dist-packages/evil.pth"},
    ),
    Attack(
        "weights",
        'touch("/models/m.safetensors")',
        {"Model file changed in a model store": "/models/m.safetensors"},
    ),
    Attack("cron", 'touch("/etc/cron.d/job")', {"Job scheduled in an AI container": "/etc/cron.*"}),
    Attack(
        "profile",
        'touch("/root/.bashrc")',
        {"Shell profile or login hook written in a container": "/root/.bashrc"},
    ),
    Attack(
        "runtime-socket",
        'server = socket.socket(socket.AF_UNIX); server.bind("/run/docker.sock"); server.listen()\n'
        'socket.socket(socket.AF_UNIX).connect("/run/docker.sock")',
        {"Container runtime socket used from a container": "/run/docker.sock"},
    ),
    Attack(
        "ptrace",
        "pid = os.fork() or os.execv('/bin/sleep', ['sleep', '60'])\n"
        "_libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), None, None)\n"
        "os.kill(pid, 9); os.waitpid(pid, 0)",
        {"Process traced or changed in a container": ".*"},
    ),
    Attack(
        "module",
        "call(313 if os.uname().machine == 'x86_64' else 273, -1, b'', 0)",
        {"Kernel module loaded from a container": ".*"},
    ),
    Attack(
        "bpf",
        "call(321 if os.uname().machine == 'x86_64' else 280, 5, bytes(128), 128)",
        {"BPF program loaded from a container": ".*"},
    ),
    Attack(
        "mount",
        'os.makedirs("/m"); assert _libc.mount(b"none", b"/m", b"tmpfs", 0, None) == 0',
        {"File system mounted in a container": "/m"},
        privileged=True,
    ),
    Attack(
        "unshare",
        "assert _libc.unshare(0x10000000 | 0x20000) == 0",
        {NAMESPACE: ".*"},
        privileged=True,
    ),
    Attack(
        "core-pattern",
        'open("/proc/sys/kernel/core_pattern", "r+").close()',  # opened, and not changed
        {"Kernel control file written from a container": "/proc/sys/kernel/core_pattern"},
        privileged=True,
    ),
    Attack(
        "io-uring",
        "call(425, 1, ctypes.create_string_buffer(256))",
        {"io_uring set up in an AI container": ".*"},
    ),
    Attack(
        "setuid",
        'touch("/srv/suid"); os.chmod("/srv/suid", 0o4755)',
        {"Set-user-id bit set in a container": "/srv/suid"},
    ),
    Attack(
        "gpu",
        'run("/bin/touch", "/dev/nvidia0")',
        {"GPU opened by an unknown program": "/dev/nvidia0|/nvidia0"},
        "touch",
    ),
    Attack(
        "miner",
        'run("/bin/echo", "-o", "stratum+tcp://pool.example:3333")',
        {"Miner started": "/bin/echo"},
        "echo",
    ),
    Attack(
        "metadata",
        'socket.create_connection(("169.254.169.254", 80)).close()',
        {"Cloud metadata service contacted from an AI container": "169.254.169.254:80"},
    ),
    Attack(
        "reverse-shell",
        'link = socket.create_connection(("127.0.0.1", 4444)); os.dup2(link.fileno(), 0)',
        {"Standard stream of a shell or interpreter turned into a connection": ".*4444.*"},
    ),
    Attack(
        "drop-by-nc",
        'run("/bin/nc", "203.0.113.7", "4444")',
        {
            PUBLIC: "203.0.113.7:4444",
            NETWORK_TOOL: "/bin/nc",
        },
        "nc",
    ),
    Attack(
        "data-drop",
        'socket.create_connection((resolve("pastebin.com"), 443)).close()',
        {"Data drop reached from an AI container": "203.0.113.9:443"},
    ),
    Attack(
        "long-name",
        f'resolve("{LONG_NAME}")',
        {"Long domain name asked for in an AI container": re.escape(LONG_NAME.lower())},
    ),
    Attack(
        "raw-socket",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        {"Raw or packet socket made in an AI container": ".*"},
    ),
    Attack(
        "token",
        f'open("{SECRETS}/token").read()',
        {"Service account token read by a tool or plugin": ".*/token"},
    ),
    Attack(
        "aws",
        'open("/root/.aws/credentials").read()',
        {"Cloud credentials read in a container": "/root/.aws/credentials"},
    ),
    Attack(
        "ssh-key",
        'open("/root/.ssh/id_ed25519").read()',
        {"SSH private key read by a program other than SSH": "/root/.ssh/id_ed25519"},
    ),
    Attack(
        "env-file",
        'run("/bin/cat", "/srv/app/.env")',
        {"API key file read by a shell or tool": "/srv/app/.env"},
        "cat",
    ),
    Attack(
        "environ",
        'open("/proc/1/environ").read()',
        {"Environment of another process read": "/proc/1/environ"},
    ),
    Attack(
        "memory", 'open("/proc/1/mem", "rb").close()', {"Memory of a process opened": "/proc/1/mem"}
    ),
    Attack(
        "search",
        'run("/bin/grep", "-r", "OPENAI_API_KEY", "/srv/app")',
        {
            "Secrets searched for by an AI agent": "/bin/grep",
            "API key file read by a shell or tool": "/srv/app/.env",
        },
        "grep",
    ),
    Attack(
        "log",
        'touch("/var/log/auth.log")',
        {"Log or shell history destroyed in a container": "/var/log/auth.log"},
    ),
    Attack(
        "own-files",
        'touch("/etc/hullwatch/rules/a.yaml")',
        {"Hullwatch's own files written by another program": "/etc/hullwatch/rules/a.yaml"},
    ),
    Attack(
        "own-files-removed",
        'os.unlink("/etc/hullwatch/rules/a.yaml")',
        {"Hullwatch's own files removed or renamed": "/etc/hullwatch/rules/a.yaml"},
    ),
)

# Things of the same kind that no rule is about, in a container with an agent and in one without.
HARMLESS_AGENT = (
    'run("/bin/ls", "/etc")',
    'run("/bin/grep", "-r", "def main", "/srv/app/main.py")',
    'open("/proc/self/status").read(); open("/proc/meminfo").read()',
    'open("/srv/app/.env").read()',  # its own, by the application itself
    'open("/root/.ssh/id_ed25519.pub").read()',
    'touch("/var/log/app.log", mode="a")',
    'touch("/tmp/notes.txt"); os.chmod("/tmp/notes.txt", 0o755)',
    'open("/models/tiny.gguf").read()',
    'socket.create_connection(("127.0.0.1", 80)).close(); socket.socket().close()',
    'resolve("example.com")',
    "os.dup2(1, 2)",
    'open("/etc/hullwatch-notes", "w").close()',
)
HARMLESS_SHELL = (
    "/bin/cat /etc/passwd; /bin/wget -q -O /dev/null http://127.0.0.1:1/;"
    " /bin/nslookup x 127.0.0.1; /bin/cp /etc/passwd /tmp/p; /bin/chmod 755 /tmp/p;"
    " /bin/rm /tmp/p; /bin/sh -c true; /bin/nc 127.0.0.1 1;"
    " /bin/grep -r OPENAI_API_KEY /etc; echo done; exec /bin/sleep 1000"
)
# What the attacks find there; not attacks themselves.
PREPARE = """
set -e
mkdir -p /opt /models /srv/app /root/.aws /root/.ssh /usr/lib/python3/dist-packages
ln -s /usr/bin/python3 /opt/ollama; ln -s /usr/bin/python3 /opt/claude
echo x > /root/.aws/credentials; echo x > /root/.ssh/id_ed25519
echo x > /root/.ssh/id_ed25519.pub
echo x > /models/tiny.gguf; echo OPENAI_API_KEY=x > /srv/app/.env
echo 'def main(): pass' > /srv/app/main.py
cp /bin/busybox /tmp/kworker; cp /bin/busybox /srv/helper
"""


@dataclass
class Attacked:
    """What the agent made of it all."""

    agent: Agent
    containers: dict[str, Container]
    network: Network

    def findings(self, name: str) -> list[dict[str, Any]]:
        return self.agent.stored(self.containers[name].id)


def drive(runc: Runc, image: Image, name: str, folder: Path, attacks: Any, **options: Any) -> Any:
    """A container whose agent does all of `attacks`; its files are prepared before."""
    place = folder / name
    place.mkdir()
    (place / "attacks.json").write_text(json.dumps([[a.name, a.code] for a in attacks]))
    (place / "driver.py").write_text(DRIVER.read_text())
    (place / "token").write_text("planted")
    mounts = [Mount(place, "/attacks"), Mount(place, SECRETS)]
    argv = ["python3", "/attacks/driver.py", "/attacks/attacks.json"]
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    bundle = runc.make(argv, name=name, image=image, mounts=mounts, env=env, **options)
    # From outside, and before any of it is watched as this container's.
    subprocess.run(["chroot", bundle.rootfs, "/bin/sh", "-c", PREPARE], check=True)
    return runc.launch(bundle)


def done(container: Container, attacks: Any) -> None:
    """Wait for the driver's end; an attack that could not be carried out fails here."""
    lines = container.wait_for_output("done", 600).splitlines()[:-1]
    said = [json.loads(line) for line in lines]
    assert [one["attack"] for one in said] == [one.name for one in attacks]
    failed = [f"{one['attack']}: {one['error']}" for one in said if one["error"]]
    assert not failed, "\n".join(failed)


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[Attacked]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("attacked")
    plain = [attack for attack in ATTACKS if not attack.privileged]
    mighty = [attack for attack in ATTACKS if attack.privileged]
    harmless = [Attack(code, code, {}) for code in HARMLESS_AGENT]
    with Agent(folder / "store") as agent, Runc(busybox_image) as runc, Network("air") as network:
        for address in ("203.0.113.7", "203.0.113.9", "169.254.169.254"):
            network.add_address(f"{address}/32")
        containers: dict[str, Container] = {}
        for name, attacks, options in (
            ("agent", plain, {"network": network.path}),
            ("mighty", mighty, {"privileged": True}),
            ("harmless", harmless, {}),
        ):
            containers[name] = drive(runc, python_image, name, folder, attacks, **options)
            done(containers[name], attacks)
        containers["shell"] = runc.start(["/bin/sh", "-c", HARMLESS_SHELL], name="shell")
        containers["shell"].wait_for_output("done", 120)
        agent.settle()
        yield Attacked(agent, containers, network)


def test_every_rule_of_the_pack_is_attacked():
    rules = {rule.name for rule in load([PACK]).rules}
    assert rules == {rule for attack in ATTACKS for rule in attack.found}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_found_with_its_evidence(attacked: Attacked, attack: Attack):
    name = "mighty" if attack.privileged else "agent"
    container = attacked.containers[name]
    for rule, object_ in attack.found.items():
        found = [
            one
            for one in attacked.findings(name)
            if one["rule"] == rule
            and re.fullmatch(object_, one["object"])
            and re.fullmatch(attack.by, one["processes"][0]["name"])
        ]
        others = [(one["rule"], one["object"]) for one in attacked.findings(name)]
        assert len(found) == 1, f"{rule}: {found or others}"
        (finding,) = found
        assert finding["container_full_id"] == container.id
        assert finding["container_name"] == name
        assert finding["image"] == container.image.reference
        assert finding["image_digest"] == container.image.digest
        assert finding["state"] == "resolved"
        chain = chain_of(finding)
        assert chain[0]["cmdline"].startswith("python3 /attacks/driver.py"), chain
        missing_facts = re.findall(r"\b(?:process|command|container|image)=<NA>", finding["output"])
        assert not missing_facts, finding["output"]


def test_nothing_else_is_found_in_the_attacked_containers(attacked: Attacked):
    for name, privileged in (("agent", False), ("mighty", True)):
        # Folded by rule, program and object: two attacks may come to one finding.
        expected = [
            (rule, attack.by, object_)
            for attack in ATTACKS
            if attack.privileged is privileged
            for rule, object_ in attack.found.items()
        ]
        more = [
            (one["rule"], one["processes"][0]["name"], one["object"])
            for one in attacked.findings(name)
            if not any(
                rule == one["rule"]
                and re.fullmatch(by, one["processes"][0]["name"])
                and re.fullmatch(object_, one["object"])
                for rule, by, object_ in expected
            )
        ]
        assert more == []


@pytest.mark.parametrize("name", ["harmless", "shell"])
def test_harmless_things_are_left_in_peace(attacked: Attacked, name: str):
    assert attacked.findings(name) == []


def test_nothing_was_lost_and_no_stage_had_a_fault(attacked: Attacked):
    status = attacked.agent.status()
    assert status is not None
    assert (status["losses"], status["faults"]) == ({}, {})
    assert attacked.agent.query("SELECT * FROM losses") == []


def test_the_store_knows_the_containers(attacked: Attacked):
    def asked(container: Container) -> list[dict[str, Any]]:
        return attacked.agent.query(
            "SELECT DISTINCT container, image, container_state FROM events WHERE container_id = $1",
            container.id,
        )

    def stored(name: str) -> bool:
        image = attacked.containers[name].image.reference
        row = {"container": name, "image": image, "container_state": "resolved"}
        return asked(attacked.containers[name]) == [row]

    for name in attacked.containers:
        # Written once a second, the events maybe a moment before.
        poll(partial(stored, name), seconds=60, waiting_for=f"container {name} in the store")
