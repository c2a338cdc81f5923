"""The text of policies, read: cut into policies, each checked, with the place of what is wrong.

Cedar tells what is wrong but not where, so the text is cut into tokens here, as Cedar cuts it. The
bounds keep Cedar's parser, which recurses, from the end of the stack.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cedarpy
import msgspec

from hullwatch.decide.policy import (
    ANNOTATIONS,
    DEADLINE,
    ID,
    OF_CHALLENGES,
    OF_FORBIDS,
    Policy,
    Problem,
    Scope,
)
from hullwatch.decide.question import ACTIONS, PRINCIPALS, RESOURCES, Effect
from hullwatch.decide.schema import APPLIES, CONTEXT, ENTITIES, cedar
from hullwatch.detect.errors import Place, RuleError, did_you_mean

__all__ = ["read_files", "read_policies"]

MAX_FILE = 1 << 20  # bytes
MAX_POLICIES = 10_000  # of a set
MAX_TOKENS = 4_000  # of a policy
MAX_DEPTH = 50  # of brackets

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n\r]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>[0-9]+|::|&&|\|\||[<>=!]=|[^"])
      | (?P<open>")""",
    re.S | re.X,
)


class Token(NamedTuple):
    kind: str  # string, word, mark or open
    text: str
    at: int

    @property
    def value(self) -> str:
        """A string without its quotes."""
        return self.text[1:-1] if self.kind == "string" else self.text


class _Refused(Exception):
    """at: offset in the file."""

    def __init__(self, message: str, at: int, mend: str = "") -> None:
        super().__init__(message)
        self.message, self.at, self.mend = message, at, mend


def read_files(paths: Iterable[Path]) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(text, path) of each file; of a folder those named *.cedar."""
    texts: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for path in paths:
        for file in sorted(path.rglob("*.cedar")) if path.is_dir() else [path]:
            place = Place(str(file))
            try:
                with file.open("rb") as opened:
                    data = opened.read(MAX_FILE + 1)
                if len(data) > MAX_FILE:
                    problems.append(Problem(place, "", f"larger than {MAX_FILE >> 20} MiB"))
                    continue
                texts.append((data.decode(), str(file)))
            except OSError as error:
                said = error.strerror or str(error)
                problems.append(Problem(place, "", f"cannot be read: {said}"))
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                problems.append(Problem(Place(str(file), line), "", "is not UTF-8"))
    return texts, problems


def read_policies(texts: Iterable[tuple[str, str]]) -> tuple[list[Policy], list[Problem]]:
    """Policies of (text, path), and what is wrong with the others; never raises."""
    policies: list[Policy] = []
    problems: list[Problem] = []
    known: dict[str, Place] = {}
    for text, path in texts:
        for found in _File(text, path).read():
            if isinstance(found, Problem):
                problems.append(found)
                continue
            if found.id in known:
                problems.append(
                    Problem(
                        found.place,
                        found.id,
                        f"another policy has this id: {known[found.id]}",
                        'give it its own, @id("...")',
                    )
                )
                continue
            known[found.id] = found.place
            policies.append(found)
    if len(policies) > MAX_POLICIES:
        over = policies[MAX_POLICIES]
        problems.append(
            Problem(over.place, over.id, f"a set has at most {MAX_POLICIES:,} policies")
        )
        del policies[MAX_POLICIES:]
    return policies, problems


class _File:
    """The text of one file, and the places in it."""

    def __init__(self, text: str, path: str) -> None:
        # Cedar's parser is given UTF-8.
        self.text = text.encode("utf-8", "backslashreplace").decode()
        self.path = path
        self._lines = [0, *(at.end() for at in re.finditer("\n", self.text))]

    def place(self, at: int) -> Place:
        line = bisect_right(self._lines, at)
        return Place(self.path, line, at - self._lines[line - 1] + 1)

    def read(self) -> Iterator[Policy | Problem]:
        for number, tokens in enumerate(self._cut(), 1):
            ident = f"{_plain(Path(self.path).name.partition('.')[0])}-{number}"
            reader = _Reader(self, tokens, ident)
            try:
                yield reader.read()
            except _Refused as refused:
                place = self.place(refused.at)
                yield Problem(place, reader.id, refused.message, refused.mend)
            except _Several as several:
                for one in several.refused:
                    yield Problem(self.place(one.at), reader.id, one.message, one.mend)

    def _cut(self) -> Iterator[list[Token]]:
        """The tokens of each policy. A `;` ends one, as it stands nowhere else in Cedar."""
        tokens: list[Token] = []
        for found in _TOKEN.finditer(self.text):
            kind = str(found.lastgroup)
            if kind == "skip":
                continue
            tokens.append(Token(kind, found[0], found.start()))
            if found[0] == ";":
                yield tokens
                tokens = []
        if tokens:
            yield tokens


class _Several(Exception):
    def __init__(self, refused: Sequence[_Refused]) -> None:
        self.refused = refused


class _Reader:
    """Of one policy."""

    def __init__(self, file: _File, tokens: list[Token], ident: str) -> None:
        self.file = file
        self.tokens = tokens
        self.id = ident

    def read(self) -> Policy:
        tokens = self.tokens
        self._bounded()
        notes, rest = self._annotations()
        said = {name: value.value for name, value in notes.items()}
        # First of all, as problems name it.
        if "id" in said:
            self.id = said["id"] if ID.fullmatch(said["id"]) else self.id
        effect = tokens[rest] if rest < len(tokens) else tokens[-1]
        end = tokens[-1].at + len(tokens[-1].text)
        text = self.file.text[tokens[0].at : end]
        self._parsed(text)
        permit = effect.text == "permit"
        fields, refused = _fields(notes, permit)
        matcher = "forbid" + self.file.text[effect.at + len(effect.text) : end]
        refused += list(self._unknown(tokens[rest:])) or self._validated(matcher, effect, rest)
        if refused:
            raise _Several(refused)
        principal, actions = self._head(matcher)
        if set(actions) <= {"connect", "listen"}:  # paths are those of sockets
            matcher = matcher.replace('"/var/run/', '"/run/')
        default = {"id": self.id, "does": Effect.ALLOW if permit else Effect.BLOCK}
        return Policy(
            **{**default, **fields},
            place=self.file.place(tokens[0].at),
            text=text,
            matcher=matcher,
            principal=principal,
            actions=actions,
            reads=_reads(tokens[rest:]),
        )

    def _bounded(self) -> None:
        tokens = self.tokens
        if len(tokens) > MAX_TOKENS:
            at = tokens[MAX_TOKENS].at
            raise _Refused(f"longer than {MAX_TOKENS:,} words and signs", at, "divide it")
        depth = 0
        for token in tokens:
            if token.kind == "open":
                raise _Refused("the text in quotes does not end", token.at, 'add the closing "')
            if token.kind != "mark":
                continue
            depth += (token.text in "([{") - (token.text in ")]}")
            if depth > MAX_DEPTH:
                raise _Refused(f"brackets nest deeper than {MAX_DEPTH}", token.at)

    def _annotations(self) -> tuple[dict[str, Token], int]:
        """Name to value, and the number of the first token after them."""
        tokens, at = self.tokens, 0
        found: dict[str, Token] = {}
        while at + 1 < len(tokens) and tokens[at].text == "@":
            name = tokens[at + 1]
            given = tokens[at + 2 : at + 5]
            if [one.text for one in given[::2]] != ["(", ")"] or given[1].kind != "string":
                example = ANNOTATIONS[name.text].example if name.text in ANNOTATIONS else "..."
                mend = f'write @{name.text}("{example}")'
                raise _Refused(f"@{name.text} needs a value in quotes", name.at, mend)
            if name.text not in ANNOTATIONS:
                raise _Refused(
                    f"there is no annotation @{name.text}",
                    name.at,
                    did_you_mean(name.text, ANNOTATIONS) or f"there are @{', @'.join(ANNOTATIONS)}",
                )
            if "\\" in given[1].text:
                raise _Refused("an annotation has no escapes", given[1].at, "leave out the \\\\")
            if name.text in found:
                raise _Refused(f"@{name.text} stands twice", name.at)
            found[name.text] = given[1]
            at += 5
        return found, at

    def _parsed(self, text: str) -> None:
        error = _parse_error(text)
        if not error:
            return
        tokens = self.tokens
        if error == "unexpected end of input":
            mend = "" if tokens[-1].text == ";" else "a policy ends with ';'"
            raise _Refused("the policy is not complete", tokens[-1].at, mend)
        # The beginning of a policy is only not complete, up to the token that is wrong.
        start = tokens[0].at

        def wrong(count: int) -> bool:
            last = tokens[count - 1]
            said = _parse_error(self.file.text[start : last.at + len(last.text)])
            return said != "unexpected end of input"

        count = bisect_left(range(1, len(tokens)), True, key=wrong) + 1
        at = tokens[count - 1]
        mend = ""
        if count > 1 and (before := tokens[count - 2]).text in ("permit", "forbid"):
            at = before  # it was taken for a condition's name
        if at.text in ("permit", "forbid", "@") and at.at > start:
            mend = "end the policy before it with ';'"
        elif count == len(tokens):  # every beginning was good: it is what it says, not how
            named = re.findall(r"[`'\"]([^`'\"]+)[`'\"]|: (\w+)$", error)
            words = {part for pair in named for part in pair if part}
            at = next((one for one in tokens if one.text in words or one.value in words), at)
            if error.startswith("'='"):
                mend = "write =="
            elif at.kind == "word":
                mend = did_you_mean(at.text, (*_WORDS, *CONTEXT))
        raise _Refused(error, at.at, mend)

    def _validated(self, matcher: str, effect: Token, rest: int) -> list[_Refused]:
        """What Cedar's validator finds."""
        # One error is told for each action and kind that it holds for, in no order of Cedar's own;
        # of two about one place the one is told that "optional" would only be the half of.
        errors = sorted(set(_validate(matcher)), key=lambda error: ("optional" in error, error))
        if len(errors) > 1:
            errors = [error for error in errors if "applicable action" not in error]
        refused: dict[int, _Refused] = {}
        for error in errors:
            one = self._placed(error, effect, rest)
            refused.setdefault(one.at, one)
        return [refused[at] for at in sorted(refused)]

    def _placed(self, error: str, effect: Token, rest: int) -> _Refused:
        tokens = self.tokens[rest:]
        if found := re.search(r"attribute `(.+?)` (in context|on entity type `(\w+)`)", error):
            name, kind = found[1], found[3] or ""
            member = _member(tokens, name, context=not kind)
            at = member[1] if member else effect
            owner = member[0].text if member else kind or "context"
            kinds = PRINCIPALS if kind in PRINCIPALS else RESOURCES
            if "optional" in error:
                said, mend = f'"{name}" may be missing', "ask for it first"
            elif kind and any(name in ENTITIES[one] for one in kinds):
                said, mend = (
                    f'not every {owner} has "{name}"',
                    "say which kind, or ask for it first",
                )
            else:
                of = {one for kind in kinds for one in ENTITIES[kind]} if kind else CONTEXT
                said = f'{owner} has no attribute "{name}"'
                return _Refused(said, at.at, did_you_mean(name, of))
            return _Refused(said, at.at, f"{mend}: {owner} has {name} && ...")
        if found := re.match(r'unrecognized action `Action::"(.*)"`', error):
            at = next((one for one in tokens if one.value == found[1]), effect)
            mend = did_you_mean(found[1], ACTIONS) or f"actions are {', '.join(ACTIONS)}"
            return _Refused(f'there is no action "{found[1]}"', at.at, mend)
        if found := re.match(r"unrecognized entity type `(.*)`", error):
            at = next((one for one in tokens if one.text == found[1]), effect)
            mend = did_you_mean(found[1], ENTITIES) or f"kinds are {', '.join(ENTITIES)}"
            return _Refused(f"there is no kind {found[1]}", at.at, mend)
        if "applicable action" in error:
            pairs = "; ".join(f"{action}: {', '.join(kinds)}" for action, kinds in APPLIES.items())
            mend = f"principals are {', '.join(PRINCIPALS)}; resources of {pairs}"
            return _Refused("no action is asked about such a thing", effect.at, mend)
        return _Refused(error, self._clause(error, effect, rest).at)

    def _clause(self, error: str, effect: Token, rest: int) -> Token:
        """The part between `&&` that an error without a name is of: its first token."""
        text, begin = self.file.text, effect.at + len(effect.text)
        depth, opened, first = 0, effect, effect
        for number, token in enumerate(self.tokens[rest:], rest):
            if token.kind != "mark" or token.text not in "([{)]}&&":
                continue
            depth += (token.text in "([{") - (token.text in ")]}")
            if token.text == "{" and depth == 1:
                opened = first = self.tokens[number + 1]
            closes = token.text == "}" and depth == 0
            if closes or (token.text == "&&" and depth == 1):
                upto = f"forbid{text[begin : token.at]}}};"
                if not _parse_error(upto) and error in _validate(upto):
                    return first
                first = self.tokens[min(number + 1, len(self.tokens) - 1)]
        return opened

    def _unknown(self, tokens: Sequence[Token]) -> Iterator[_Refused]:
        """`x has NAME` for a name that there is not: Cedar takes it for a `false`, in silence."""
        for owner, has, name, after in zip(
            tokens, tokens[1:], tokens[2:], [*tokens[3:], tokens[-1]], strict=False
        ):
            if has.text != "has" or has.kind != "word" or name.kind == "mark":
                continue
            if after.text == ".":
                yield _Refused("attributes are flat", after.at, "leave out what follows the dot")
            known: Iterable[str] = CONTEXT
            if owner.text in ("principal", "resource"):
                kinds = PRINCIPALS if owner.text == "principal" else RESOURCES
                known = {one for kind in kinds for one in ENTITIES[kind]}
            if name.value not in known:
                said = f'{owner.text} has no attribute "{name.value}"'
                yield _Refused(said, name.at, did_you_mean(name.value, known))

    def _head(self, matcher: str) -> tuple[Scope, tuple[str, ...]]:
        """Whom and which actions the policy speaks of."""
        depth = 0
        end = len(matcher)
        for found in _TOKEN.finditer(matcher):
            depth += (found[0] == "(") - (found[0] == ")")
            if found[0] == ")" and not depth:
                end = found.end()
                break
        sets = msgspec.json.decode(cedarpy.policies_to_json_str(matcher[:end] + ";"))
        (head,) = sets["staticPolicies"].values()
        who, does = head["principal"], head["action"]
        one = who.get("entity") or who.get("in", {}).get("entity") or {}
        # There are no groups: `in` holds for the thing itself.
        scope = Scope(one.get("type") or who.get("entity_type", ""), one.get("id"))
        named = does.get("entities") or ([does["entity"]] if "entity" in does else [])
        return scope, tuple(action["id"] for action in named) or ACTIONS


def _fields(notes: dict[str, Token], permit: bool) -> tuple[dict[str, Any], list[_Refused]]:
    fields: dict[str, Any] = {}
    refused: list[_Refused] = []
    challenge = "effect" in notes and notes["effect"].value == "challenge"
    for name, token in notes.items():
        annotation = ANNOTATIONS[name]
        try:
            fields[annotation.field] = annotation.read(token.value)
        except (ValueError, RuleError) as error:
            mend = f'as @{name}("{annotation.example}")'
            refused.append(_Refused(f"@{name}: {error.args[0]}", token.at, mend))
        if name in OF_FORBIDS and permit:
            refused.append(_Refused(f"@{name} is for forbids", token.at, "leave it out"))
        if name in OF_CHALLENGES and not challenge:
            mend = 'add @effect("challenge"), or leave it out'
            refused.append(_Refused(f"@{name} is for challenges", token.at, mend))
    if challenge:
        fields.setdefault("deadline", DEADLINE)
        if permit:
            said = "a challenge is written as a forbid: not without a person's approval"
            refused.append(_Refused(said, notes["effect"].at, "write forbid"))
    return fields, refused


_WORDS = (
    *("permit", "forbid", "when", "unless", "principal", "action", "resource", "context", "true"),
    *("false", "if", "then", "else", "has", "like", "is", "in", "contains", "containsAll"),
    *("containsAny", "isEmpty", "isInRange", "isIpv4", "isIpv6", "isLoopback", "isMulticast", "ip"),
)


@cache
def _schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(cedar())


def _parse_error(text: str) -> str:
    """'' for one good policy."""
    try:
        found = cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        return str(error).removeprefix("Policy parse error: ") or "cannot be parsed"
    if found.templates():
        return "templates (?principal, ?resource) are not used here"
    return "" if len(found) == 1 else "unexpected end of input"


def _validate(text: str) -> list[str]:
    try:
        found = cedarpy.validate_policies(text, _schema())
    except ValueError as error:
        return [str(error)]
    return [re.sub(r"^for policy `\w+`, ", "", one.error) for one in found.errors]


def _member(tokens: Sequence[Token], name: str, *, context: bool) -> tuple[Token, Token] | None:
    """An attribute, after a dot or in brackets, with what it is of."""
    for owner, sign, token in zip(tokens, tokens[1:], tokens[2:], strict=False):
        of_context = owner.text == "context"
        if token.value == name and sign.text in (".", "[") and of_context is context:
            return owner, token
    return None


def _reads(tokens: Sequence[Token]) -> frozenset[str] | None:
    for token, after in pairwise(tokens):
        if token.text == "context" and after.text not in (".", "[", "has"):
            return None
    for owner, opens, token, closes in zip(
        tokens, tokens[1:], tokens[2:], tokens[3:], strict=False
    ):
        # An attribute's name with escapes. The brackets of a set follow no word.
        named = owner.kind == "word" or owner.text in (")", "]")
        if named and (opens.text, closes.text) == ("[", "]") and "\\" in token.text:
            return None
    return frozenset(token.value for token in tokens if token.kind != "mark")


def _plain(stem: str) -> str:
    """A file's name as the beginning of an id."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stem)[:80].lstrip("_.-") or "policy"
