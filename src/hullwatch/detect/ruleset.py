"""Rule files to rules: loaded, checked, compiled together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hullwatch.detect.errors import Place, RuleError, Warning_
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.fields.field import ALL
from hullwatch.detect.language.ast import And, Expr, Not, Or, show
from hullwatch.detect.language.collect import Collection, ListDef, MacroDef, RuleDef, known
from hullwatch.detect.language.document import MAX_FILE
from hullwatch.detect.language.exceptions import exception_condition
from hullwatch.detect.language.expand import Expander
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.language.sequences import SequenceDef, StepDef
from hullwatch.detect.output import Output, read_output
from hullwatch.detect.program import Program
from hullwatch.detect.results import FAILED
from hullwatch.detect.sequence.compiled import Sequence, compile_sequence
from hullwatch.detect.sigma import is_sigma, read_sigma
from hullwatch.detect.source import Source
from hullwatch.detect.tree import NEVER, Tree

__all__ = ["Rule", "RuleSet", "load", "load_texts", "read_files"]

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
    definition: RuleDef | SequenceDef
    sequence: Sequence | None = None  # its steps are hidden rules; it has no tree of its own
    step: bool = False  # a hidden rule: what it matches is not told but goes to its sequence
    per_event: bool = False  # of a step: its events are looked at one by one


@dataclass(slots=True)
class RuleSet:
    """What came of a set of files. A rule that is refused is in `errors`, with its reason.

    rules: sequences too; steps: the hidden rules of enabled sequences.
    """

    rules: list[Rule] = field(default_factory=list)
    steps: list[Rule] = field(default_factory=list)
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
    """Read files in the given order, our language and Sigma alike; a directory stands for its
    *.yaml and *.yml files, sorted, with all below it, but for test cases. Never raises: what is
    wrong is in `errors`."""
    texts, errors = read_files(paths)
    loaded = load_texts(texts)
    loaded.errors[:0] = errors
    return loaded


def read_files(paths: Iterable[str | Path]) -> tuple[list[tuple[str, str]], list[RuleError]]:
    """(text, path) of each rule file, and of which could not be read the reason."""
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
    return texts, errors


def load_texts(texts: list[tuple[str, str]]) -> RuleSet:
    """The same for (text, path) pairs."""
    collection = Collection()
    sigma = read_sigma([one for one in texts if is_sigma(one[0])])
    for text, path in texts:
        if is_sigma(text):
            sigma.add(path, collection)
        else:
            collection.read(text, path)
    collection.errors += sigma.errors
    collection.warnings += sigma.warnings
    result = RuleSet(
        errors=collection.errors,
        warnings=collection.warnings,
        macros=collection.macros,
        lists=collection.lists,
        files=tuple(path for _, path in texts),
    )
    compiler = _Compiler(collection, result)
    for definition in collection.rules.values():
        item = f"rule {definition.name!r}"
        try:
            result.rules.append(compiler.rule(definition))
        except RuleError as problem:
            if definition.skip_unknown and _about_fields(problem):
                # The author asked for that; it is said all the same.
                said = f"skipped, as skip-if-unknown-filter says: {problem.message}"
                result.warnings.append(Warning_(_placed(problem, definition).place, item, said))
            else:
                result.errors.append(_refused(problem, definition, item))
    for sequence in collection.sequences.values():
        try:
            result.rules.append(compiler.sequence(sequence))
        except RuleError as problem:
            result.errors.append(_refused(problem, sequence, f"sequence {sequence.name!r}"))
    return result


def _placed(problem: RuleError, definition: RuleDef | SequenceDef) -> RuleError:
    if problem.place.line:
        return problem
    return RuleError(problem.message, definition.place, item=problem.item, mend=problem.mend)


def _refused(problem: RuleError, definition: RuleDef | SequenceDef, item: str) -> RuleError:
    where = _placed(problem, definition)
    message = f"{where.item}: {where.message}" if where.item else where.message
    return RuleError(message, where.place, item=item, mend=where.mend)


def _about_fields(problem: RuleError) -> bool:
    said = problem.message
    return "field '" in said or "is no event type" in said or "is not recorded" in said


class _Compiler:
    """Definitions of one collection to rules of one program."""

    def __init__(self, collection: Collection, result: RuleSet) -> None:
        self.collection = collection
        self.result = result
        self.expander = Expander(collection)

    def rule(self, definition: RuleDef) -> Rule:
        """Raises RuleError."""
        written = _with_exceptions(definition)
        output = read_output(definition.output, definition.output_place)
        made = self._made(definition, f"rule {definition.name!r}", written, output)
        if ALL - {FAILED} <= set(made.classes) and definition.warn_evttypes:
            said = "no evt.type limits the rule, so it is asked about every event"
            self._warn(Warning_(definition.place, f"rule {definition.name!r}", said))
        return made

    def sequence(self, definition: SequenceDef) -> Rule:
        """The rule that stands for a sequence; its steps become hidden rules."""
        item = f"sequence {definition.name!r}"
        if any(rule.name == definition.name for rule in self.result.rules):
            raise RuleError("a rule has this name already", definition.place)
        steps: list[Rule] = []

        def compile_step(step: StepDef, name: str) -> tuple[int, ...]:
            if step.condition is not None:
                written = parse(str(step.condition), step.condition.locate)
            else:
                of = known(self.collection.rules, step.rule, "rule", step.place)
                written = _with_exceptions(of)
            made = self._made(definition, item, written, Output(()), name)
            if not made.classes:
                raise RuleError(f"step '{step.id}' can never happen", step.place)
            steps.append(made)
            return made.classes

        sequence, output = compile_sequence(definition, compile_step)
        if definition.enabled:
            self.result.steps += [
                replace(made, step=True, per_event=step.per_event)
                for made, step in zip(steps, sequence.steps, strict=True)
            ]
        meaning = (
            *(
                f"{made.hash} {step.count} {step.distinct}"
                for made, step in zip(steps, definition.steps, strict=True)
            ),
            *(str(sequence.within), str(sequence.ordered), *sequence.by),
            *(definition.output, definition.priority),
        )
        return Rule(
            definition.name,
            definition.place,
            definition.desc,
            definition.priority,
            definition.tags,
            definition.enabled,
            output,
            Or(tuple(made.condition for made in steps), definition.place),
            tuple(dict.fromkeys(name for made in steps for name in made.macros)),
            NEVER,
            {label: source for made in steps for label, source in made.sources.items()},
            tuple(sorted({cls for made in steps for cls in made.classes})),
            _hash(meaning),
            definition,
            sequence,
        )

    def _made(
        self,
        definition: RuleDef | SequenceDef,
        item: str,
        written: Expr,
        output: Output,
        name: str = "",
    ) -> Rule:
        condition, macros = self.expander.expand(written)
        program = self.result.program
        tree, notes = program.compile(condition)
        classes = tuple(cls for cls in sorted(ALL) if _may_be(program, tree, cls))
        for warning in dict.fromkeys(notes.warnings):
            self._warn(warning._replace(item=item))
        if tree is NEVER:
            self._warn(Warning_(definition.place, item, "the condition can never hold"))
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
        return Rule(
            name or definition.name,
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
            _hash((show(condition), definition.output, definition.priority)),
            definition,
        )

    def _warn(self, warning: Warning_) -> None:
        self.result.warnings.append(warning)


def _with_exceptions(definition: RuleDef) -> Expr:
    written = parse(str(definition.condition), definition.condition.locate)
    parts: list[Expr] = [written]
    for one in definition.exceptions:
        excluded = exception_condition(one)
        if excluded is not None:
            parts.append(Not(excluded, one.place))
    return parts[0] if len(parts) == 1 else And(tuple(parts), definition.place)


def _hash(meaning: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(meaning).encode(), digest_size=8).hexdigest()


def _may_be(program: Program, tree: Tree, cls: int) -> bool:
    """Whether an event of the class can meet the tree, going by evt.type and missing fields."""
    holds, fails = program.by_class(cls, tree.bits())
    return tree.ask(holds, fails)


def types_for(rule: Rule) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for cls in rule.classes for name in types_of(cls)))
