"""Texts of Sigma files to items of our language, with what is wrong about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from sigma.correlations import SigmaCorrelationRule
from sigma.rule import SigmaRule

from hullwatch.detect.errors import Place, RuleError
from hullwatch.detect.sigma.correlation import Base, refers_to, sequence_item
from hullwatch.detect.sigma.documents import Document, read
from hullwatch.detect.sigma.messages import Converted, Problem, Reply, SigmaText
from hullwatch.detect.sigma.rule import OFF, parsed, rule_item

__all__ = ["convert"]

T = TypeVar("T")
MAX_DOCUMENTS = 20_000


def convert(texts: Iterable[SigmaText]) -> Reply:
    """Never raises for what a text holds; items stand in the order of their documents."""
    return _Conversion().run(texts)


class _Conversion:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.bases: dict[str, Base] = {}
        self.silent: set[str] = set()  # named by correlations that do not want them to report

    def run(self, texts: Iterable[SigmaText]) -> Reply:
        documents: list[Document] = []
        for one in texts:
            documents += self.tried("", Place(one.path), partial(_documents, one)) or ()
        if len(documents) > MAX_DOCUMENTS:
            said = f"more than {MAX_DOCUMENTS} Sigma rules"
            self.problems.append(Problem(documents[MAX_DOCUMENTS].place, "", said))
            del documents[MAX_DOCUMENTS:]
        read = [(document, self.of(document, _parsed)) for document in documents]
        for document, rule in read:
            if isinstance(rule, SigmaRule):
                self.bases |= dict.fromkeys(_keys(rule), Base(rule, document))
        # Correlations first: only one that works may silence the rules that it is made of.
        made = {
            at: body
            for kind in (SigmaCorrelationRule, SigmaRule)
            for at, (document, rule) in enumerate(read)
            if isinstance(rule, kind) and (body := self.of(document, self._body(rule)))
        }
        items = [
            Converted(document.place, str(rule.id or ""), made[at])
            for at, (document, rule) in enumerate(read)
            if rule is not None and at in made
        ]
        return Reply(items, self.problems)

    def of(self, document: Document, make: Callable[[Document], T]) -> T | None:
        return self.tried(document.item, document.place, lambda: make(document))

    def tried(self, item: str, place: Place, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except RuleError as problem:
            where = problem.place if problem.place.line else place
            self.problems.append(Problem(where, item, problem.message, problem.mend))
        except RecursionError:
            self.problems.append(Problem(place, item, "nested too deep"))
        except Exception as problem:
            # pySigma reads what others wrote and may stumble in ways of its own.
            said = (str(problem).splitlines() or ["?"])[0][:200]
            text = f"pySigma cannot read it: {type(problem).__name__}: {said}"
            self.problems.append(Problem(place, item, text))
        return None

    def _body(self, rule: SigmaRule | SigmaCorrelationRule) -> Callable[[Document], dict[str, Any]]:
        def make(document: Document) -> dict[str, Any]:
            if rule.status in OFF:
                said = f"its status is {rule.status}, so it is disabled"
                place = document.place_of("status")
                self.problems.append(Problem(place, document.item, said, warning=True))
            if isinstance(rule, SigmaRule):
                return rule_item(rule, document, reports=not self.silent & _keys(rule))
            body = sequence_item(rule, document, self.bases)
            if not rule.generate:
                self.silent.update(refers_to(rule))
            return body

        return make


_REFUSED = {
    "action": "'action' (global, repeat, reset) is of Sigma's old format: write each rule whole",
    "filter": "Sigma filters are not supported: append an exception or a condition to the rule",
}


def _parsed(document: Document) -> SigmaRule | SigmaCorrelationRule:
    for key, reason in _REFUSED.items():
        if key in document.plain:
            raise RuleError(reason, document.place_of(key))
    kind = SigmaCorrelationRule if "correlation" in document.plain else SigmaRule
    found: SigmaRule | SigmaCorrelationRule = parsed(kind, document)
    return found


def _documents(one: SigmaText) -> list[Document]:
    return list(read(one.text, one.path))


def _keys(rule: SigmaRule) -> set[str]:
    """What a correlation may call it."""
    return {key for key in (rule.name, str(rule.id or "")) if key}
