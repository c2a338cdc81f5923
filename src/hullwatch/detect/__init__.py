"""What does it mean: rules over enriched batches, and the findings they make."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hullwatch.detect.cases import Result, read_cases, run_cases
    from hullwatch.detect.engine import Engine
    from hullwatch.detect.errors import Place, RuleError
    from hullwatch.detect.finding import Finding
    from hullwatch.detect.ruleset import Rule, RuleSet, load, load_texts

__all__ = [
    "Engine",
    "Finding",
    "Place",
    "Result",
    "Rule",
    "RuleError",
    "RuleSet",
    "load",
    "load_texts",
    "read_cases",
    "run_cases",
]

_MODULES = {
    "cases": ("Result", "read_cases", "run_cases"),
    "engine": ("Engine",),
    "errors": ("Place", "RuleError"),
    "finding": ("Finding",),
    "ruleset": ("Rule", "RuleSet", "load", "load_texts"),
}


def __getattr__(name: str) -> Any:
    """On first use: who needs errors or frameworks alone does not pay for the engine (28 MiB)."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
