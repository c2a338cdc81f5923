"""Rule files to rules: loaded, checked, compiled together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hullwatch.detect.errors import Place, RuleError, Warning_
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.fields.field import ALL
from hullwatch.detect.language.ast import And, Expr, Not, show
from hullwatch.detect.language.collect import Collection, ListDef, MacroDef, RuleDef
from hullwatch.detect.language.document import MAX_FILE
from hullwatch.detect.language.exceptions import exception_condition
from hullwatch.detect.language.expand import Expander
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.output import Output, read_output
from hullwatch.detect.program import Program
from hullwatch.detect.results import FAILED
from hullwatch.detect.source import Source
from hullwatch.detect.tree import NEVER, Tree

__all__ = ["Rule", "RuleSet", "load", "load_texts"]

TEST_SUFFIX = ".test.yaml"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule ready to run. classes: event classes that can meet it; hash: of what it means."""

    name: str
    place: Place
    desc: str
    priority: str
    tags: tuple[str, ...]
    enabled: bool
    output: Output
    condition: Expr
    macros: tuple[str, ...]
    tree: Tree
    sources: dict[str, Source]
    classes: tuple[int, ...]
    hash: str
    definition: RuleDef


@dataclass(slots=True)
class RuleSet:
    """What came of a set of files. A rule that is refused is in `errors`, with its reason."""

    rules: list[Rule] = field(default_factory=list)
    errors: list[RuleError] = field(default_factory=list)
    warnings: list[Warning_] = field(default_factory=list)
    macros: dict[str, MacroDef] = field(default_factory=dict)
    lists: dict[str, ListDef] = field(default_factory=dict)
    program: Program = field(default_factory=Program)
    files: tuple[str, ...] = ()

    def rule(self, name: str) -> Rule:
        """KeyError if there is no such rule, or it was refused."""
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise KeyError(name)

    @property
    def hashes(self) -> dict[str, str]:
        """Name to hash of what it means, of every enabled rule."""
        return {rule.name: rule.hash for rule in self.rules if rule.enabled}

    @property
    def digest(self) -> str:
        """Of all enabled rules: changes when any of them means something else."""
        whole = "".join(
            sorted(f"{rule.name}\0{rule.hash}\0" for rule in self.rules if rule.enabled)
        )
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def load(paths: Iterable[str | Path]) -> RuleSet:
    """Read files in the given order; a directory stands for its *.yaml files, sorted, with all
    below it, but for test cases. Never raises: what is wrong is in `errors`."""
    texts: list[tuple[str, str]] = []
    errors: list[RuleError] = []
    for given in paths:
        path = Path(given)
        found = [path]
        if path.is_dir():
            found = sorted(
                one
                for suffix in ("*.yaml", "*.yml")
                for one in path.rglob(suffix)
                if not one.name.endswith(TEST_SUFFIX)
            )
        for one in found:
            try:
                with one.open("rb") as file:
                    text = file.read(MAX_FILE + 1).decode("utf-8")
                texts.append((text, str(one)))
            except (OSError, UnicodeDecodeError) as problem:
                said = getattr(problem, "strerror", None) or str(problem)
                errors.append(RuleError(f"cannot be read: {said}", Place(str(one))))
    loaded = load_texts(texts)
    loaded.errors[:0] = errors
    return loaded


def load_texts(texts: Sequence[tuple[str, str]]) -> RuleSet:
    """The same for (text, path) pairs."""
    collection = Collection()
    for text, path in texts:
        collection.read(text, path)
    result = RuleSet(
        errors=collection.errors,
        warnings=collection.warnings,
        macros=collection.macros,
        lists=collection.lists,
        files=tuple(path for _, path in texts),
    )
    expander = Expander(collection)
    for definition in collection.rules.values():
        item = f"rule {definition.name!r}"
        try:
            result.rules.append(_compile(definition, expander, result))
        except RuleError as problem:
            where = (
                problem
                if problem.place.line
                else RuleError(
                    problem.message, definition.place, item=problem.item, mend=problem.mend
                )
            )
            if definition.skip_unknown and _about_fields(problem):
                # The author asked for that; it is said all the same.
                said = f"skipped, as skip-if-unknown-filter says: {problem.message}"
                result.warnings.append(Warning_(where.place, item, said))
            else:
                within = where.item
                message = f"{within}: {where.message}" if within else where.message
                result.errors.append(RuleError(message, where.place, item=item, mend=where.mend))
    return result


def _about_fields(problem: RuleError) -> bool:
    said = problem.message
    return "field '" in said or "is no event type" in said or "is not recorded" in said


def _compile(definition: RuleDef, expander: Expander, result: RuleSet) -> Rule:
    item = f"rule {definition.name!r}"
    written = parse(str(definition.condition), definition.condition.locate)
    parts: list[Expr] = [written]
    for one in definition.exceptions:
        excluded = exception_condition(one)
        if excluded is not None:
            parts.append(Not(excluded, one.place))
    whole = parts[0] if len(parts) == 1 else And(tuple(parts), definition.place)
    condition, macros = expander.expand(whole)
    tree, notes = result.program.compile(condition)
    output = read_output(definition.output, definition.output_place)
    classes = tuple(cls for cls in sorted(ALL) if _may_be(result.program, tree, cls))
    result.warnings += [warning._replace(item=item) for warning in dict.fromkeys(notes.warnings)]
    if tree is NEVER:
        result.warnings.append(Warning_(definition.place, item, "the condition can never hold"))
    elif not classes:
        raise RuleError(
            "never matches: "
            + (
                f"the sensor does not observe {', '.join(dict.fromkeys(notes.never))}"
                if notes.never
                else "no event of the sensor can meet the condition"
            ),
            definition.place,
        )
    elif ALL - {FAILED} <= set(classes) and definition.warn_evttypes:
        said = "no evt.type limits the rule, so it is asked about every event"
        result.warnings.append(Warning_(definition.place, item, said))
    meaning = "\0".join((show(condition), definition.output, definition.priority))
    return Rule(
        definition.name,
        definition.place,
        definition.desc,
        definition.priority,
        definition.tags,
        definition.enabled,
        output,
        condition,
        macros,
        tree,
        notes.sources,
        classes,
        hashlib.blake2b(meaning.encode(), digest_size=8).hexdigest(),
        definition,
    )


def _may_be(program: Program, tree: Tree, cls: int) -> bool:
    """Whether an event of the class can meet the tree, going by evt.type and missing fields."""
    holds, fails = program.by_class(cls)
    return tree.ask(holds, fails)


def types_for(rule: Rule) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for cls in rule.classes for name in types_of(cls)))
