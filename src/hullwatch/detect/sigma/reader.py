"""The parent's side: gives Sigma texts to the child and its items to the collection."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import hullwatch
from hullwatch.detect.errors import Place, RuleError, Warning_
from hullwatch.detect.language.collect import Collection
from hullwatch.detect.language.document import Value
from hullwatch.detect.sigma.messages import Converted, Problem, Reply, Request, SigmaText

__all__ = ["Sigma", "is_sigma", "read_sigma"]

MAX_REQUEST = 64 << 20  # bytes of JSON, all files together
MAX_REPLY = 64 << 20
MAX_SECONDS = 120
NO_PYSIGMA = 3
_MODULE = "hullwatch.detect.sigma"

# A key of Sigma at the start of a line: in a file of our language it is indented below an item.
_SIGMA_KEY = re.compile(r"^[\"']?(?:detection|logsource|correlation)[\"']?[ \t]*:", re.M)


def is_sigma(text: str) -> bool:
    """Whether a file's text is Sigma: documents that are mappings, not one sequence of items."""
    return _SIGMA_KEY.search(text) is not None


class Sigma:
    """What the child made of all Sigma files, to be added file by file."""

    def __init__(self, reply: Reply) -> None:
        taken: dict[str, set[str]] = {}
        self.items = [_named(item, taken.setdefault(item.kind, set())) for item in reply.items]
        self.errors = [
            RuleError(one.message, one.place, item=one.item, mend=one.mend)
            for one in reply.problems
            if not one.warning
        ]
        self.warnings = [
            Warning_(one.place, one.item, one.message) for one in reply.problems if one.warning
        ]
        self._files: dict[str, list[Converted]] = {}
        for item in self.items:
            self._files.setdefault(item.place.path, []).append(item)

    def add(self, path: str, collection: Collection) -> None:
        """The items of one file, once. A title that is taken gets its id: rules of our language
        replace each other by name, and no Sigma rule is meant to."""
        for item in self._files.pop(path, ()):
            named = _named(item, set(collection.names(item.kind)))
            collection.take(_value(named.body, item.place))


def _named(item: Converted, taken: set[str]) -> Converted:
    """With a name that is not taken, and is now."""
    title = item.body[item.kind]
    others = (f"{title} ({mark})" for mark in (item.ident[:8] or "2", *range(3, 1000)))
    name = next((name for name in (title, *others) if name not in taken), title)
    taken.add(name)
    return Converted(item.place, item.ident, {**item.body, item.kind: name})


def read_sigma(texts: Sequence[tuple[str, str]]) -> Sigma:
    """All Sigma files of a set together, as correlations name rules of other files."""
    reply = _ask([SigmaText(path, text) for text, path in texts]) if texts else Reply()
    return Sigma(reply)


def _ask(texts: list[SigmaText]) -> Reply:
    request = msgspec.json.encode(Request(tuple(texts)))
    if len(request) > MAX_REQUEST:
        return _refused(texts, f"Sigma files of more than {MAX_REQUEST} bytes altogether")
    package = Path(hullwatch.__file__).resolve().parent.parent
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        # -P: the working directory is no place to import from.
        done = subprocess.run(
            [sys.executable, "-P", "-m", _MODULE],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            input=request,
            capture_output=True,
            timeout=2 * MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _refused(texts, f"reading Sigma took longer than {2 * MAX_SECONDS} s")
    except OSError as problem:
        return _refused(texts, f"the reader of Sigma cannot be started: {problem.strerror}")
    if done.returncode == NO_PYSIGMA:
        mend = "install it: pip install 'hullwatch[sigma]'"
        return _refused(texts, "Sigma rules need pySigma, which is not installed", mend)
    try:
        if done.returncode:
            raise ValueError
        return msgspec.json.decode(done.stdout, type=Reply)
    except (ValueError, msgspec.DecodeError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = said[-1][:200] if said else f"it ended with {done.returncode}"
        return _refused(texts, f"the reader of Sigma failed: {why}")


def _refused(texts: list[SigmaText], message: str, mend: str = "") -> Reply:
    return Reply([], [Problem(Place(one.path), "", message, mend) for one in texts])


def _value(plain: Any, place: Place) -> Value:
    """Plain values as our YAML reader would give them, all at the rule's place."""
    if isinstance(plain, dict):
        inner = {key: _value(one, place) for key, one in plain.items()}
        return Value(inner, place, "map", dict.fromkeys(inner, place))
    if isinstance(plain, list):
        return Value([_value(one, place) for one in plain], place, "seq")
    if isinstance(plain, bool):
        return Value("true" if plain else "false", place, "bool")
    return Value(str(plain), place, "int" if isinstance(plain, int) else "str")
