"""Files that make something run later: rules/config/."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = (
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
        'touch("/usr/lib/python3/dist-packages/evil.pth")\n'
        'os.remove("/usr/lib/python3/dist-packages/evil.pth")',  # before another Python starts
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
        "moved-config",
        'touch("/tmp/new"); os.rename("/tmp/new", "/srv/app/.mcp.json")',
        {"Start-up file put in place by rename or link": "/tmp/new"},
    ),
    Attack(
        "login-key",
        'touch("/root/.ssh/authorized_keys")',
        {"SSH access planted in a container": "/root/.ssh/authorized_keys"},
    ),
)
