"""Evidence and the agent itself: rules/tamper/."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = (
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
    Attack(
        "switched-off",
        'run("/opt/bin/pkill", "hullwatch")',
        {"Protection switched off by command": "/bin/true"},
        "pkill",
    ),
    Attack(
        "foreign-map",
        "call(321 if os.uname().machine == 'x86_64' else 280, 14, bytes(128), 128)",
        {"BPF objects of others taken hold of from a container": ".*"},
    ),
)
