"""The condition grammar: text to tree, by recursive descent, bounded in size and depth.

After libsinsp/filter/parser.h (EBNF there), with the transformers and list modifiers of Falco
0.44: ``concat``, ``join``, ``len`` and ``OP oneof|anyof|allof (...)`` (libs PR 2776, 2984).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hullwatch.detect.errors import NOWHERE, Place, RuleError, did_you_mean
from hullwatch.detect.language.ast import (
    And,
    Check,
    Expr,
    FieldRef,
    Literal,
    Macro,
    Not,
    Operand,
    Or,
    Transform,
)
from hullwatch.detect.language.strings import QuoteError, read_quoted

__all__ = ["LIST_OPS", "MODIFIERS", "NUMBER_OPS", "STRING_OPS", "TRANSFORMERS", "parse"]

NUMBER_OPS = ("<=", "<", ">=", ">")
STRING_OPS = (
    *("==", "=", "!=", "glob", "iglob", "contains", "icontains", "bcontains"),
    *("startswith", "bstartswith", "endswith", "regex"),
)
LIST_OPS = ("intersects", "in", "pmatch")
MODIFIERS = ("oneof", "anyof", "allof")
TRANSFORMERS = ("tolower", "toupper", "b64", "basename", "len", "join", "concat")

MAX_TEXT = 256 * 1024
MAX_DEPTH = 100
MAX_LIST = 20_000

_BLANK = re.compile(r"[ \t\b\r\n]*")
_IDENTIFIER = re.compile(r"[a-zA-Z]+[a-zA-Z0-9_]*")
_FIELD = re.compile(r"[a-zA-Z]+[a-zA-Z0-9_]*(?:\.[a-zA-Z]+[a-zA-Z0-9_]*)+")
_FIELD_ARG = re.compile(r"[^\]\[\"'\s]+")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[+-]?[0-9]+\.?[0-9]*(?:[eE][+-][0-9]+)?")
_BARE = re.compile(r"[^()\"'\s=,]+")
_CALL = re.compile(r"([a-z][a-z0-9_]*)\(")
_WORD_OP = re.compile(r"[a-z]+(?=[\s(\"'])|exists(?![a-zA-Z0-9_.])")
_MODIFIER = re.compile(r"(oneof|anyof|allof)[ \t\b\r\n]*(?=\()")


def parse(text: str, locate: Callable[[int], Place] | None = None) -> Expr:
    """The tree of a condition. locate maps an offset of text to its place in a file.

    Raises RuleError only.
    """
    return _Parser(text, locate or (lambda at: Place(NOWHERE.path, 1, at + 1))).parse()


class _Parser:
    def __init__(self, text: str, locate: Callable[[int], Place]) -> None:
        self.text = text
        self.locate = locate
        self.at = 0
        self.depth = 0

    def parse(self) -> Expr:
        if len(self.text) > MAX_TEXT:
            raise self.error(f"the condition is longer than {MAX_TEXT} characters", 0)
        self.blank()
        if self.at == len(self.text):
            raise self.error("the condition is empty", 0)
        tree = self.either()
        if self.at < len(self.text):
            mend = "a list of values needs parentheses: (a, b)" if self.peek() == "," else ""
            raise self.error(f"expected 'and' or 'or' before {self.here()}", mend=mend)
        return tree

    # Boolean structure

    def either(self) -> Expr:
        start = self.at
        children = [self.both()]
        while self.keyword("or"):
            children.append(self.both())
        return children[0] if len(children) == 1 else Or(tuple(children), self.locate(start))

    def both(self) -> Expr:
        start = self.at
        children = [self.negation()]
        while self.keyword("and"):
            children.append(self.negation())
        return children[0] if len(children) == 1 else And(tuple(children), self.locate(start))

    def negation(self) -> Expr:
        start = self.at
        negated = False
        while self.keyword("not"):
            negated = not negated
        child = self.check()
        return Not(child, self.locate(start)) if negated else child

    def keyword(self, word: str) -> bool:
        """Consume `word` when a blank or '(' follows it, and the blanks around it."""
        self.blank()
        end = self.at + len(word)
        if not self.text.startswith(word, self.at) or end >= len(self.text):
            return False
        if self.text[end] not in " \t\b\r\n(":
            return False
        self.at = end
        self.blank()
        return True

    def check(self) -> Expr:
        self.blank()
        start = self.at
        if self.peek() == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.error(f"more than {MAX_DEPTH} nested parentheses")
            self.at += 1
            tree = self.either()
            self.expect(")")
            self.depth -= 1
            self.blank()
            return tree
        left = self.operand(start)
        if left is not None:
            return self.condition(left, start)
        found = _IDENTIFIER.match(self.text, self.at)
        if found and found[0] not in ("and", "or", "not"):
            self.at = found.end()
            self.blank()
            return Macro(found[0], self.locate(start))
        raise self.error(f"expected a field, a macro or '(' but found {self.here()}")

    # Fields and transformers

    def operand(self, start: int) -> FieldRef | Transform | None:
        if call := _CALL.match(self.text, self.at):
            return self.call(call)
        if name := self.match(_FIELD):
            return self.field(name, start)
        return None

    def field(self, name: str, start: int) -> FieldRef:
        if self.peek() != "[":
            return FieldRef(name, None, self.locate(start))
        self.at += 1
        arg = self.quoted()
        if arg is None:
            arg = self.match(_FIELD_ARG)
        if arg is None:
            raise self.error(f"expected an argument after '{name}['")
        if self.peek() != "]":
            raise self.error(f"expected ']' after '{name}[{arg}'")
        self.at += 1
        return FieldRef(name, arg, self.locate(start))

    def call(self, call: re.Match[str], *, nested: bool = False) -> Transform:
        name, start = call[1], self.at
        if name not in TRANSFORMERS and name != "val":
            known = (*TRANSFORMERS, "val")
            raise self.error(
                f"unknown transformer '{name}'",
                mend=did_you_mean(name, known) or f"one of {', '.join(known)}",
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} nested transformers")
        self.at = call.end()
        args: list[Operand] = []
        while True:
            self.blank()
            at = self.at
            arg: Operand | None = self.operand(at)
            if arg is None and (text := self.quoted()) is not None:
                arg = Literal(text, True, self.locate(at))
            if arg is None:
                raise self.error(f"expected a field inside '{name}('")
            args.append(arg)
            self.blank()
            if self.peek() != ",":
                break
            self.at += 1
        self.expect(")")
        self.depth -= 1
        return Transform(name, tuple(args), self.locate(start))

    # Operators and values

    def condition(self, left: FieldRef | Transform, start: int) -> Expr:
        place = self.locate(start)
        self.blank()
        for symbol in ("<=", ">=", "!=", "==", "=", "<", ">"):
            if self.text.startswith(symbol, self.at):
                self.at += len(symbol)
                if symbol in NUMBER_OPS:
                    return Check(left, symbol, (self.number(symbol),), place=place)
                return self.with_strings(left, "=" if symbol == "==" else symbol, place)
        found = _WORD_OP.match(self.text, self.at)
        word = found[0] if found else ""
        if word == "exists":
            self.at += len(word)
            self.blank()
            return Check(left, word, place=place)
        if word in STRING_OPS:
            self.at += len(word)
            return self.with_strings(left, word, place)
        if word in LIST_OPS:
            self.at += len(word)
            right, listed = self.values(word)
            return Check(left, word, right, listed=listed, place=place)
        known = ("exists", *NUMBER_OPS, *STRING_OPS, *LIST_OPS)
        said = re.compile(r"[^\s()]*").match(self.text, self.at)
        hint = did_you_mean(said[0] if said else "", known)
        raise self.error(
            f"expected an operator after {left} but found {self.here()}",
            mend=hint or f"one of {', '.join(known)}",
        )

    def with_strings(self, left: FieldRef | Transform, op: str, place: Place) -> Check:
        self.blank()
        if found := _MODIFIER.match(self.text, self.at):
            self.at = found.end()
            right, _ = self.values(f"{op} {found[1]}")
            return Check(left, op, right, found[1], True, place)
        at = self.at
        value = self.transformed() or self.string()
        if value is None:
            raise self.error(f"expected a value after '{op}' but found {self.here()}", at)
        self.blank()
        return Check(left, op, (value,), place=place)

    def number(self, op: str) -> Operand:
        self.blank()
        at = self.at
        if (value := self.transformed()) is not None:
            self.blank()
            return value
        # Falco's lexer takes bare numbers only; a quoted one is as clear, so it is taken too.
        text = self.quoted()
        if text is None:
            text = self.match(_NUMBER)
        if text is None:
            raise self.error(f"expected a number after '{op}' but found {self.here()}")
        if self.at < len(self.text) and self.text[self.at] not in " \t\b\r\n),":
            raise self.error(f"expected a number after '{op}'", at)
        self.blank()
        return Literal(text, False, self.locate(at))

    def values(self, op: str) -> tuple[tuple[Operand, ...], bool]:
        self.blank()
        at = self.at
        if self.peek() != "(":
            if (value := self.transformed()) is not None:
                self.blank()
                return (value,), False
            if (name := self.match(_IDENTIFIER)) is None:
                raise self.error(f"expected a list after '{op}'", mend="write (a, b)")
            self.blank()
            return (Literal(name, False, self.locate(at)),), True
        self.at += 1
        self.blank()
        found: list[Operand] = []
        if self.peek() != ")":
            while True:
                self.blank()
                literal = self.string()
                if literal is None:
                    raise self.error(f"expected a value but found {self.here()}")
                found.append(literal)
                if len(found) > MAX_LIST:
                    raise self.error(f"more than {MAX_LIST} values in one list")
                self.blank()
                if self.peek() != ",":
                    break
                self.at += 1
        self.expect(")")
        self.blank()
        return tuple(found), True

    def transformed(self) -> Transform | None:
        call = _CALL.match(self.text, self.at)
        return self.call(call) if call else None

    def string(self) -> Literal | None:
        at = self.at
        if (text := self.quoted()) is not None:
            return Literal(text, True, self.locate(at))
        if (text := self.match(_BARE)) is not None:
            return Literal(text, False, self.locate(at))
        return None

    # Lexing

    def quoted(self) -> str | None:
        if self.peek() not in ("'", '"'):
            return None
        try:
            text, self.at = read_quoted(self.text, self.at)
        except QuoteError as problem:
            raise self.error(str(problem), problem.at) from None
        return text

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if not found:
            return None
        self.at = found.end()
        return found[0]

    def blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def expect(self, char: str) -> None:
        self.blank()
        if self.peek() != char:
            raise self.error(f"expected '{char}' but found {self.here()}")
        self.at += 1

    def here(self) -> str:
        rest = self.text[self.at : self.at + 24].split("\n")[0]
        return repr(rest) if rest else "the end"

    def error(self, message: str, at: int | None = None, *, mend: str = "") -> RuleError:
        return RuleError(message, self.locate(self.at if at is None else at), mend=mend)
