"""What ignoring case costs Sigma rules, for each distinct command line:

    .venv/bin/python bench/sigma_case.py [--rules FOLDER] [--texts 20000]

The same conditions are asked three ways: lower-cased once (`tolower(f) contains "x"`, as Sigma is
converted), by operators that ignore case (`icontains`, `iglob`), and by one regular expression for
the values of each list.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

from hullwatch.detect.language.ast import (
    And,
    Check,
    Expr,
    FieldRef,
    Literal,
    Not,
    Or,
    Transform,
    show,
)
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.program import Program
from hullwatch.detect.ruleset import load

ROOT = Path(__file__).resolve().parents[1]
_IGLOB = {"=": "{}", "in": "{}", "startswith": "{}*", "endswith": "*{}", "contains": "*{}*"}
_WORDS = (
    "bash -c curl python3 /usr/bin/env --flag=value /tmp/x.sh install -rf /etc/hosts a b".split()
)


def folded(check: Check) -> FieldRef | None:
    left = check.left
    if isinstance(left, Transform) and left.name == "tolower":
        inner = left.args[0]
        return inner if isinstance(inner, FieldRef) and inner.name == "proc.exeline" else None
    return None


def only(expr: Expr) -> list[Check]:
    """The checks on the command line in lower case."""
    match expr:
        case And(children) | Or(children):
            return [check for child in children for check in only(child)]
        case Not(child):
            return only(child)
        case Check():
            return [expr] if folded(expr) is not None else []
    return []


def ignoring(check: Check) -> str:
    field = folded(check)
    values = [one.text for one in check.right if isinstance(one, Literal)]
    if check.op == "contains":
        return f"{field} icontains {Literal(values[0], True)}"
    if check.op not in _IGLOB:
        return f"{field} iglob {Literal(values[0], True)}"
    globs = [_IGLOB[check.op].format(re.sub(r"([\\*?\[\](){}|+@!])", r"\\\1", v)) for v in values]
    return " or ".join(f"{field} iglob {Literal(glob, True)}" for glob in globs)


def as_regex(checks: list[Check]) -> str:
    parts = [re.escape(one.text) for c in checks for one in c.right if isinstance(one, Literal)]
    return f"proc.exeline regex {Literal('(?is:.*)(?i:' + '|'.join(parts) + ')(?is:.*)', True)}"


def measure(label: str, conditions: list[str], texts: list[str]) -> None:
    program = Program()
    for condition in conditions:
        program.compile(parse(condition))
    lower = [name for name in program.columns if name.startswith("tolower")]
    begun = time.process_time()
    for text in texts:
        for name, column in program.columns.items():
            column.fresh(text.lower() if name in lower else text)
    spent = time.process_time() - begun
    count = len(program.predicates)
    print(f"{label:<28} {count:>5} predicates {spent / len(texts) * 1e6:>9.1f} µs a command line")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rules", default=str(ROOT.parent / "shared/conformance/sigma"))
    options.add_argument("--texts", type=int, default=5_000)
    chosen = options.parse_args()
    rules = load([chosen.rules])
    per_rule = [checks for rule in rules.rules if (checks := only(rule.condition))]
    checks = [check for each in per_rule for check in each]
    rng = random.Random(1)
    texts = [" ".join(rng.choices(_WORDS, k=12)) + f" {at}" for at in range(chosen.texts)]
    measure("lower-cased once", [show(check) for check in checks], texts)
    measure("icontains and iglob", [ignoring(c) for c in checks], texts)
    measure("a regular expression a rule", [as_regex(each) for each in per_rule], texts)


if __name__ == "__main__":
    main()
