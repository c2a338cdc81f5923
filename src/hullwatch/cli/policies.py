"""Which policies a command is about: named, in force, or those that ship."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.show import print_json, safe, say

if TYPE_CHECKING:
    from hullwatch.decide.cases import Result
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.following import Following
    from hullwatch.decide.question import Decision

__all__ = [
    "Given",
    "Paths",
    "asked_set",
    "chosen",
    "decision_row",
    "in_force_or",
    "load",
    "print_result",
    "refusing",
]

APPLIED = "applied"  # instead of files: the set in force; a file of this name is ./applied
OWN = Path("/etc/hullwatch/policies")

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]...",
        help="Policy files (*.cedar) or folders, or the names of sets that ship, such as `agent`."
        f" Default: {OWN}, or all that ship.",
    ),
]
Given = Annotated[list[str], typer.Argument(metavar="PATH...", help="As for `policy check`.")]


def shipped() -> Path | None:
    """The starter sets: package data, or the source tree."""
    import hullwatch

    package = Path(hullwatch.__file__).resolve().parent
    places = (package / "policies", package.parent.parent / "policies")
    return next((path for path in places if path.is_dir()), None)


def chosen(given: list[str] | None) -> list[Path]:
    """Paths of what was named; CommandError where one is not there."""
    from hullwatch.detect.errors import did_you_mean

    pack = shipped()
    if not given:
        found = OWN if OWN.is_dir() else pack
        if found is None:
            raise CommandError("policy: no policies found; give PATH", ExitCode.CONTENT)
        return [found]
    paths: list[Path] = []
    names = {path.stem: path for path in pack.glob("*.cedar")} if pack else {}
    for name in given:
        path = Path(name)
        if not path.exists() and name in names:
            path = names[name]
        if not path.exists():
            hint = did_you_mean(name, names)
            said = f"{name}: no such file or directory, and no set that ships"
            raise CommandError(f"{said} {hint and f'({hint})'}".strip(), ExitCode.CONTENT)
        paths.append(path)
    return paths


def load(paths: list[Path]) -> Engine:
    from hullwatch.decide.engine import Engine

    with refusing():
        return Engine.load(paths)


@contextmanager
def refusing() -> Iterator[None]:
    """What a set's errors are to a person: all of them, and code 6."""
    from hullwatch.decide.applied import AppliedError
    from hullwatch.decide.policy import PolicyError

    try:
        yield
    except PolicyError as error:
        first, *more = map(str, error.problems)
        raise CommandError(first, ExitCode.CONTENT, more) from None
    except AppliedError as error:
        raise CommandError(f"policy: {error}", ExitCode.STORE) from None
    except OSError as error:
        said = error.strerror or str(error)
        raise CommandError(f"{error.filename}: {said}", ExitCode.STORE) from None


def in_force_or(given: list[str] | None, store: Path) -> Engine:
    """What was named, else the set in force, else what ships."""
    from hullwatch.decide.applied import Applied

    if not given:
        with refusing():
            found = Applied(store).engine()
        if found is not None:
            return found
        say("no set is in force: these are those that ship (`hullwatch policy apply` changes that)")
    return load(chosen(given))


def asked_set(given: Sequence[str], store: Path) -> tuple[Engine, Following | None]:
    """What `--policy` names, for what asks at request time; of the set in force, also what tells of
    its changes. CommandError says what is wrong."""
    from hullwatch.decide.applied import Applied
    from hullwatch.decide.engine import Engine
    from hullwatch.decide.following import Following
    from hullwatch.decide.policy import PolicyError

    following, engine = None, None
    if APPLIED in given:
        if len(given) > 1:
            said = f"--policy {APPLIED}: the set in force is all there is, give no other"
            raise CommandError(said, ExitCode.USAGE)
        following = Following(Applied(store))
        engine = following.follow()
        if engine is None:
            raise CommandError(f"--policy {APPLIED}: {following.problem}", ExitCode.CONTENT)
    else:
        try:
            engine = Engine.load(given)
        except PolicyError as error:
            first, *more = map(str, error.problems)
            raise CommandError(f"--policy: {first}", ExitCode.CONTENT, more) from None
        if not engine.policies:
            raise CommandError("--policy: there is no policy in it", ExitCode.CONTENT)
    for problem in engine.overdue():
        say(str(problem))
    return engine, following


def print_result(result: Result, as_json: bool) -> None:
    case = result.case
    if as_json:
        print_json(
            {
                "policy": case.policy,
                "case": case.name,
                "file": case.place.path,
                "passed": result.ok,
                "expected": case.expect.value,
                "wanted": result.decision.wanted.value,
                "by": list(result.decision.policies),
                "error": result.error,
            }
        )
    else:
        said = f"{safe(case.policy)}: {safe(case.name)}: {safe(result.error)}"
        print(f"FAIL  {safe(case.place)}: {said}")


def decision_row(decision: Decision) -> dict[str, Any]:
    return {
        "effect": decision.effect.value,
        "wanted": decision.wanted.value,
        "policies": list(decision.policies),
        "failed": list(decision.failed),
        "reason": decision.reason,
        "version": decision.version,
    }
