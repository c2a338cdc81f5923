"""The rules of a set as tables in Markdown, a table a file: what docs/rules.md shows."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from hullwatch.detect.frameworks import ATLAS, ATTACK, OWASP_AGENTIC, OWASP_LLM
from hullwatch.detect.ruleset import Rule, RuleSet

__all__ = ["table"]

_HEAD = "| rule | sees | OWASP | ATT&CK | ATLAS |\n| --- | --- | --- | --- | --- |"
_SENTENCE = re.compile(r".+?[.!?](?= |$)")


def table(rules: RuleSet) -> str:
    """One table for each file, in the order of loading. 'sees' is the first sentence of desc."""
    parts = []
    for path, found in groupby(rules.rules, key=lambda rule: rule.place.path):
        at = Path(path)
        rows = "\n".join(_row(rule) for rule in found)
        parts.append(f"## {at.parent.name}/{at.name}\n\n{_HEAD}\n{rows}")
    return "\n\n".join(parts)


def _row(rule: Rule) -> str:
    desc = " ".join(rule.definition.desc.split())
    first = _SENTENCE.match(desc)
    cells = [
        f"{rule.name} ({rule.priority.lower()})",
        first[0] if first else desc,
        *(
            " ".join(tag for tag in rule.tags if tag in known)
            for known in ({**OWASP_AGENTIC, **OWASP_LLM}, ATTACK, ATLAS)
        ),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
