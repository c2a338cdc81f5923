"""What does it mean: rules over enriched batches, and the findings they make."""

from __future__ import annotations

from hullwatch.detect.cases import Result, read_cases, run_cases
from hullwatch.detect.engine import Engine
from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.explain import explain
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
    "explain",
    "load",
    "load_texts",
    "read_cases",
    "run_cases",
]
