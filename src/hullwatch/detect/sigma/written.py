"""A converted rule as the text of a rule file, for people to read and edit."""

from __future__ import annotations

from typing import Any

import yaml

from hullwatch.detect.explain import layout
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.sigma.messages import Converted

__all__ = ["as_yaml"]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(item: Converted) -> str:
    """One item of a sequence, after a comment that says where it comes from."""
    body = yaml.dump(
        [_laid_out(item.body)], Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True
    )
    return f"# {item.place.path}:{item.place.line}\n{body}"


def _laid_out(body: dict[str, Any]) -> dict[str, Any]:
    """Conditions over several lines, one child of the top a line."""
    made = dict(body)
    if "condition" in made:
        made["condition"] = layout(parse(made["condition"]))
    if "steps" in made:
        made["steps"] = [_laid_out(step) for step in made["steps"]]
    return made
