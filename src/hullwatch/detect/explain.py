"""What a rule means here: for `hullwatch rules explain`."""

from __future__ import annotations

from dataclasses import dataclass

from hullwatch.detect.fields import Where
from hullwatch.detect.frameworks import named
from hullwatch.detect.language.ast import Expr, show
from hullwatch.detect.language.sequences import SequenceDef
from hullwatch.detect.ruleset import Rule, RuleSet, types_for
from hullwatch.sensor.events import CLASSES

__all__ = ["Explanation", "FieldUse", "MacroUse", "StepUse", "explain"]


@dataclass(frozen=True, slots=True)
class FieldUse:
    """known: the parts of an event that decide it, and by which classes."""

    name: str
    type: str
    doc: str
    known: str


@dataclass(frozen=True, slots=True)
class MacroUse:
    name: str
    place: str
    condition: str


@dataclass(frozen=True, slots=True)
class StepUse:
    """A step of a sequence; count: in words."""

    id: str
    count: str
    condition: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """frameworks: ids of OWASP and MITRE among the tags, with their names.
    verdict: what the kernel may leave out for this rule's sake, in words.
    steps, joined: of a sequence; its condition is that of any step.
    """

    name: str
    place: str
    desc: str
    priority: str
    tags: tuple[str, ...]
    frameworks: dict[str, str]
    enabled: bool
    hash: str
    written: str
    expanded: str
    exceptions: tuple[str, ...]
    macros: tuple[MacroUse, ...]
    lists: tuple[MacroUse, ...]
    fields: tuple[FieldUse, ...]
    events: tuple[str, ...]
    classes: tuple[str, ...]
    verdict: str
    warnings: tuple[str, ...]
    steps: tuple[StepUse, ...] = ()
    joined: str = ""


def explain(rules: RuleSet, name: str) -> Explanation:
    """KeyError if there is no such rule."""
    rule = rules.rule(name)
    definition = rule.definition
    if isinstance(definition, SequenceDef):
        texts = [str(step.condition) for step in definition.steps if step.condition is not None]
        exceptions: tuple[str, ...] = ()
    else:
        texts = [str(definition.condition)]
        exceptions = tuple(one.name for one in definition.exceptions)
    macros = tuple(
        MacroUse(
            one, str(rules.macros[one].place), " ".join(str(rules.macros[one].condition).split())
        )
        for one in rule.macros
    )
    written = " / ".join(" ".join(text.split()) for text in texts)
    texts += [macro.condition for macro in macros]
    lists = tuple(
        MacroUse(one, str(found.place), ", ".join(text for text, _ in found.items))
        for one, found in rules.lists.items()
        if any(_names(one, text) for text in texts)
    )
    item = f"{'rule' if rule.sequence is None else 'sequence'} {name!r}"
    return Explanation(
        rule.name,
        str(rule.place),
        definition.desc,
        rule.priority,
        rule.tags,
        named(rule.tags),
        rule.enabled,
        rule.hash,
        written,
        layout(rule.condition),
        exceptions,
        macros,
        lists,
        tuple(_use(rule, label) for label in rule.sources),
        types_for(rule),
        tuple(CLASSES[cls].name for cls in rule.classes),
        _verdict(rule),
        tuple(str(one) for one in rules.warnings if one.item == item),
        _steps(rule, rules),
        _joined(rule),
    )


def _steps(rule: Rule, rules: RuleSet) -> tuple[StepUse, ...]:
    if rule.sequence is None:
        return ()
    hidden = {one.name: one for one in rules.steps}
    found = []
    for step in rule.sequence.steps:
        count = "" if step.count == 1 else f"{step.count} times"
        if step.distinct is not None:
            count = f"{step.count} different values of {step.distinct.label}"
        of = hidden.get(step.rule)
        found.append(StepUse(step.id, count, layout(of.condition) if of else "(disabled)"))
    return tuple(found)


def _joined(rule: Rule) -> str:
    if rule.sequence is None:
        return ""
    order = "in this order" if rule.sequence.ordered else "in any order"
    if len(rule.sequence.steps) == 1:
        order = "counted"
    return f"{order}, by {'; '.join(rule.sequence.by)}, within {spell(rule.sequence.within)}"


def spell(duration: int) -> str:
    """ns in words: 5m, 90s."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if duration % (size * 10**9) == 0:
            return f"{duration // (size * 10**9)}{unit}"
    return f"{duration // 10**6}ms"


def _names(word: str, text: str) -> bool:
    padded = text
    for char in "(),=":
        padded = padded.replace(char, f" {char} ")
    return word in padded.split()


def _use(rule: Rule, label: str) -> FieldUse:
    source = rule.sources[label]
    by_part: dict[Where, list[str]] = {}
    for cls in rule.classes:
        where = source.where(cls)
        if where is not None:
            by_part.setdefault(where, []).append(CLASSES[cls].name)
    parts = []
    for where, classes in by_part.items():
        everywhere = len(classes) == len(rule.classes)
        parts.append(where.value + ("" if everywhere else f" of {', '.join(classes)}"))
    known = "; ".join(parts) or "never, in events this rule can meet"
    return FieldUse(label, source.type.value, source.bounds[0].field.doc, known)


def _verdict(rule: Rule) -> str:
    bounds = [bound for source in rule.sources.values() for bound in source.bounds]
    if any(bound.field.quiet is not None for bound in bounds):
        return "the kernel leaves out events that the baseline of the image knows"
    decided = {source.where(cls) for source in rule.sources.values() for cls in rule.classes} - {
        None
    }
    if Where.IMAGE in decided and Where.OBJ in decided:
        return "the kernel leaves out events whose object, container or process rules a match out"
    if Where.OBJ in decided:
        return "the kernel leaves out events whose object or container rules a match out"
    return "nothing about an object rules a match out: all of its events are sent"


def layout(expr: Expr, width: int = 88) -> str:
    """The condition over several lines, one child of the top a line where it is long."""
    from hullwatch.detect.language.ast import And, Or

    text = show(expr)
    if len(text) <= width or not isinstance(expr, And | Or):
        return text
    word = "and" if isinstance(expr, And) else "or"
    lines = [f"({show(one)})" if isinstance(one, And | Or) else show(one) for one in expr.children]
    return f"\n{word} ".join(lines)
