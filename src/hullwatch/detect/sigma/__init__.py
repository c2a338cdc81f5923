"""Sigma rules as rules of our own language.

What pySigma reads becomes text of our language, so that compiling, explaining, verdicts and tests
know one language only. pySigma runs in a child (`python -m hullwatch.detect.sigma`): the agent's
memory has no room for it. `reader.py` is the parent's side; `fields.py` says what Sigma's names
mean here.
"""

from __future__ import annotations

from hullwatch.detect.sigma.reader import Sigma, is_sigma, read_sigma

__all__ = ["Sigma", "is_sigma", "read_sigma"]
