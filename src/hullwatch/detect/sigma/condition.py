"""A Sigma rule's whole condition as a tree of our language, the log source's guard included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.exceptions import SigmaError
from sigma.rule import SigmaRule

from hullwatch.detect.errors import RuleError
from hullwatch.detect.language.ast import And, Check, Expr, Literal, Not, Operand, Or
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.sigma.documents import Document
from hullwatch.detect.sigma.fields import CATEGORIES, Category
from hullwatch.detect.sigma.values import comparison

__all__ = ["category_of", "condition_of"]

MAX_DEPTH = 100
_KEYWORD = "keywords search a whole line of a log, and events here are no lines"


def category_of(rule: SigmaRule, document: Document) -> Category:
    """The log source's row; raises RuleError with its place."""
    source = rule.logsource
    place = document.place_of("logsource")
    if source.product not in (None, "linux"):
        raise RuleError(f"product '{source.product}' is not watched", place, mend="only linux is")
    if source.service is not None:
        reason = (
            f"service '{source.service}' is a log that is not read; events come from the kernel"
        )
        mend = f"write the rule for category {', '.join(CATEGORIES)}"
        raise RuleError(reason, place, mend=mend)
    if source.category not in CATEGORIES:
        said = (
            f"category '{source.category}'" if source.category else "a log source without category"
        )
        raise RuleError(f"{said} is not supported", place, mend=f"one of {', '.join(CATEGORIES)}")
    return CATEGORIES[source.category]


def condition_of(rule: SigmaRule, document: Document) -> Expr:
    """What the rule looks for; raises RuleError with the place of what cannot be said here."""
    category = category_of(rule, document)
    found = [_expr(one, category, document, 0) for one in _parsed(rule, document)]
    if not found:
        raise RuleError("the condition is empty", document.place_of("condition"))
    return _joined(And, [parse(category.guard), found[0] if len(found) == 1 else Or(tuple(found))])


def _parsed(rule: SigmaRule, document: Document) -> list[object]:
    """Of several conditions each is enough."""
    place = document.place_of("condition")
    try:
        found = [one.parsed for one in rule.detection.parsed_condition]
    except SigmaError as problem:
        said = (str(problem).splitlines() or ["?"])[0]
        if "pipe" in said:
            mend = "write a correlation (event_count, value_count) instead"
            raise RuleError(
                "aggregations in a condition are not supported", place, mend=mend
            ) from None
        raise RuleError(said, place) from None
    return [one for one in found if one is not None]


def _expr(tree: object, category: Category, document: Document, depth: int) -> Expr:
    if depth > MAX_DEPTH:
        raise RuleError(
            f"the condition is more than {MAX_DEPTH} deep", document.place_of("condition")
        )
    match tree:
        case ConditionAND():
            return _joined(And, [_expr(one, category, document, depth + 1) for one in tree.args])
        case ConditionOR():
            found = [_expr(one, category, document, depth + 1) for one in tree.args]
            return _joined(Or, _listed(found))
        case ConditionNOT():
            child = _expr(tree.args[0], category, document, depth + 1)
            return child.child if isinstance(child, Not) else Not(child)
        case ConditionFieldEqualsValueExpression():
            try:
                return _flat(comparison(tree.field, tree.value, category))
            except RuleError as problem:
                place = document.place_of(tree.field, str(tree.value))
                raise RuleError(problem.message, place, mend=problem.mend) from None
        case ConditionValueExpression():
            place = document.place_of("detection", str(tree.value))
            raise RuleError(_KEYWORD, place, mend="name the field, as in CommandLine|contains")
    raise RuleError("an empty part of the condition", document.place_of("condition"))


def _flat(expr: Expr) -> Expr:
    return _joined(Or, _listed(expr.children)) if isinstance(expr, Or) else expr


def _joined(kind: type[And] | type[Or], children: Iterable[Expr]) -> Expr:
    """Without one level for each of Sigma's lists."""
    found: dict[Expr, None] = {}
    for child in children:
        found |= dict.fromkeys(child.children if isinstance(child, kind) else (child,))
    return next(iter(found)) if len(found) == 1 else kind(tuple(found))


def _listed(children: Iterable[Expr]) -> list[Expr]:
    """`f = a or f = b` as `f in (a, b)`, at the place of the first."""
    found: list[Expr] = []
    at: dict[Operand, int] = {}
    for child in _alternatives(children):
        if not isinstance(child, Check) or not _lists(child):
            found.append(child)
        elif child.left in at:
            before = found[at[child.left]]
            assert isinstance(before, Check)
            values = tuple(dict.fromkeys((*before.right, *child.right)))
            found[at[child.left]] = replace(before, op="in", right=values, listed=True)
        else:
            at[child.left] = len(found)
            found.append(child)
    return found


def _alternatives(children: Iterable[Expr]) -> Iterator[Expr]:
    for child in children:
        yield from child.children if isinstance(child, Or) else (child,)


def _lists(check: Check) -> bool:
    return check.op in ("=", "in") and all(isinstance(one, Literal) for one in check.right)
