"""Lists and macros put in their places: a condition without names of our own."""

from __future__ import annotations

from dataclasses import replace

from hullwatch.detect.errors import Place, RuleError, did_you_mean
from hullwatch.detect.language.ast import And, Check, Expr, Literal, Macro, Not, Operand, Or
from hullwatch.detect.language.collect import Collection
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.language.strings import QuoteError, read_quoted

__all__ = ["Expander"]

MAX_CHECKS = 20_000
MAX_DEPTH = 200


class Expander:
    """Expands conditions over one collection; every list and macro is read once.

    used_lists, used_macros: names met so far, for `explain` and for warnings.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._lists: dict[str, tuple[Literal, ...]] = {}
        self._macros: dict[str, Expr] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self.macro_uses: dict[str, tuple[str, ...]] = {}
        self.used_lists: set[str] = set()
        self._stack: list[str] = []

    def expand(self, tree: Expr) -> tuple[Expr, tuple[str, ...]]:
        """The tree without macros and lists, and the names of the macros in it, outermost first."""
        names: dict[str, None] = {}
        found = self._expr(tree, names)
        self._measure(found, tree.place)
        return found, tuple(names)

    def list_values(self, name: str) -> tuple[Literal, ...]:
        """All values of a list, lists in it included; raises RuleError on a cycle."""
        if name in self._lists:
            return self._lists[name]
        definition = self.collection.lists[name]
        if name in self._stack:
            raise RuleError(f"list '{name}' contains itself", definition.place)
        self._stack.append(name)
        try:
            values: list[Literal] = []
            for text, place in definition.items:
                values += self._item(name, text, place)
        finally:
            self._stack.pop()
        found = self._lists[name] = tuple(dict.fromkeys(values))
        return found

    def _item(self, name: str, text: str, place: Place) -> tuple[Literal, ...]:
        if text in self.collection.lists:
            return self.list_values(text)
        if text[:1] in ("'", '"'):
            # A YAML text with quotes of its own: '"a b"' is the value a b.
            try:
                value, end = read_quoted(text, 0)
            except QuoteError as problem:
                raise RuleError(f"list '{name}': {problem}", place) from None
            if text[end:].strip():
                raise RuleError(f"list '{name}': text after a quoted value", place)
            return (Literal(value, True, place),)
        return (Literal(text, False, place),)

    def _expr(self, tree: Expr, names: dict[str, None]) -> Expr:
        match tree:
            case And(children, place):
                return And(_flat(And, [self._expr(child, names) for child in children]), place)
            case Or(children, place):
                return Or(_flat(Or, [self._expr(child, names) for child in children]), place)
            case Not(child, place):
                return Not(self._expr(child, names), place)
            case Macro(name, place):
                return self._macro(name, place, names)
            case Check():
                return self._check(tree)

    def _macro(self, name: str, place: Place, names: dict[str, None]) -> Expr:
        definition = self.collection.macros.get(name)
        if definition is None:
            known = (*self.collection.macros,)
            if name in self.collection.lists:
                raise RuleError(
                    f"'{name}' is a list, not a macro", place, mend=f"write 'field in ({name})'"
                )
            raise RuleError(f"there is no macro '{name}'", place, mend=did_you_mean(name, known))
        names.setdefault(name)
        if name not in self._macros:
            label = f"macro {name}"
            if label in self._stack:
                raise RuleError(f"macro '{name}' contains itself", definition.place)
            if len(self._stack) > 64:
                raise RuleError("more than 64 macros inside each other", place)
            self._stack.append(label)
            try:
                inner: dict[str, None] = {}
                tree = self._expr(
                    parse(str(definition.condition), definition.condition.locate), inner
                )
                self._measure(tree, place)
            except RuleError as problem:
                raise problem.of(f"macro '{name}'") from None
            finally:
                self._stack.pop()
            self._macros[name] = tree
            self.macro_uses[name] = tuple(inner)
        for inner_name in self.macro_uses[name]:
            names.setdefault(inner_name)
        return self._macros[name]

    def _check(self, tree: Check) -> Check:
        if not tree.listed:
            return tree
        values: dict[Operand, None] = {}
        for value in tree.right:
            if (
                isinstance(value, Literal)
                and not value.quoted
                and value.text in self.collection.lists
            ):
                self.used_lists.add(value.text)
                values |= dict.fromkeys(self.list_values(value.text))
            else:
                values[value] = None
        return replace(tree, right=tuple(values))

    def _measure(self, tree: Expr, place: Place) -> None:
        """Refuse a tree that macros made too large: (checks, depth) are kept by node."""
        checks, depth = self._size(tree)
        if checks > MAX_CHECKS or depth > MAX_DEPTH:
            raise RuleError(
                f"the condition is too large: {checks} checks, {depth} levels "
                f"(at most {MAX_CHECKS} and {MAX_DEPTH})",
                place,
            )

    def _size(self, tree: Expr) -> tuple[int, int]:
        match tree:
            case And(children) | Or(children):
                sizes = [self._size(child) for child in children]
                return sum(n for n, _ in sizes), 1 + max(d for _, d in sizes)
            case Not(child):
                checks, depth = self._size(child)
                return checks, depth + 1
            case _:
                return 1, 1


def _flat(kind: type[And] | type[Or], children: list[Expr]) -> tuple[Expr, ...]:
    found: list[Expr] = []
    for child in children:
        found += child.children if isinstance(child, kind) else [child]
    return tuple(found)
