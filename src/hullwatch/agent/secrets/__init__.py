"""Secrets: which kinds there are, where they are in a text, and what stands for them in a store.

Nothing here gives a secret on. What is kept of one is its kind and its keyed hash.
"""

from __future__ import annotations

from hullwatch.agent.secrets.detection import Found, Stream, detect
from hullwatch.agent.secrets.environment import classify_env
from hullwatch.agent.secrets.key import Key, KeyUnusable
from hullwatch.agent.secrets.kind import Kind
from hullwatch.agent.secrets.kinds import KINDS
from hullwatch.agent.secrets.paths import classify_path
from hullwatch.agent.secrets.redaction import redact

__all__ = [
    "Found",
    "KINDS",
    "Key",
    "KeyUnusable",
    "Kind",
    "Stream",
    "classify_env",
    "classify_path",
    "detect",
    "redact",
]
