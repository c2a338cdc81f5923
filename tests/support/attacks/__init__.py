"""Attacks on containers, a table for each folder of rules: one for every rule of the pack."""

from __future__ import annotations

from support.attacks import (
    agent,
    config,
    escape,
    gpu,
    model,
    network,
    packages,
    plugins,
    secrets,
    stories,
    tamper,
    tools,
)
from support.attacks.attack import Attack

__all__ = ["ATTACKS", "Attack"]

ATTACKS: tuple[Attack, ...] = (
    *agent.ATTACKS,
    *packages.ATTACKS,
    *plugins.ATTACKS,
    *config.ATTACKS,
    *escape.ATTACKS,
    *gpu.ATTACKS,
    *model.ATTACKS,
    *network.ATTACKS,
    *secrets.ATTACKS,
    *stories.ATTACKS,
    *tamper.ATTACKS,
    *tools.ATTACKS,
)
