"""Accelerators: rules/gpu/."""

from __future__ import annotations

from support.attacks.attack import UPPER, Attack

__all__ = ["ATTACKS"]

ATTACKS = (
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
        "foreign-gpu",
        'run("/srv/touch", "/dev/nvidia1")',
        {
            "GPU opened by a program that is not in the image": ".*/nvidia1",
            "GPU opened by an unknown program": ".*/nvidia1",
            UPPER: "/srv/touch",
        },
        "touch",
    ),
    Attack(
        "gpu-hook",
        'run("/bin/env", "LD_PRELOAD=/proc/self/cwd/x.so", "/opt/bin/nvidia-ctk", "hook")',
        {"GPU container hook started with a preloaded library": "/bin/true"},
        "nvidia-ctk",
    ),
)
