"""The documents keep what they promise: links lead somewhere, commands and queries work."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hullwatch.cli import COMMANDS, build
from hullwatch.decide.cases import cases_of, run_case
from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import ANNOTATIONS
from hullwatch.decide.schema import tables
from hullwatch.detect import load, load_texts
from hullwatch.detect.cases import read_cases, run_cases
from hullwatch.store.query import Reader
from support.enriched import Builder
from support.stores import finding, opens, writer

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "tests", "rules", "bench", "src", "deploy", "policies")
DOCS = sorted([*ROOT.glob("*.md"), *(p for top in FOLDERS for p in (ROOT / top).rglob("*.md"))])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)


def _ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_document = pytest.mark.parametrize("path", DOCS, ids=_ids)


def test_there_are_documents():
    names = {_ids(path) for path in DOCS}
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"} <= names


@every_document
def test_links_lead_somewhere(path):
    for target in _LINK.findall(_BLOCK.sub("", path.read_text())):
        if "://" in target or target.startswith("#"):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), f"{_ids(path)}: {target}"


@every_document
def test_paths_in_the_text_exist(path):
    """`src/...`, `tests/...`, `rules/...` and so on, as far as they are whole."""
    for code in _CODE.findall(path.read_text()):
        found = re.fullmatch(r"(?:src|tests|rules|docs|bench)/[\w./-]+", code)
        if found and not re.search(r"[A-Z]{3}", code):
            assert (ROOT / code).exists(), f"{_ids(path)}: {code}"


def _lines(path: Path) -> Iterator[str]:
    """Commands: indented lines and those of blocks, and inline code."""
    text = path.read_text()
    yield from _CODE.findall(text)
    lines = iter(text.splitlines())
    for line in lines:
        line = line.strip().removeprefix("$ ")
        while line.count('"') % 2 and (more := next(lines, None)) is not None:
            line += " " + more.strip()
        yield line


def _commands() -> Iterator[tuple[str, list[str]]]:
    for path in DOCS:
        for line in _lines(path):
            found = re.match(r"(?:\S*/bin/)?hullwatch ([a-z].*)", line)
            if found:
                words = shlex.split(found[1].replace("\\|", "|"), comments=True)
                yield _ids(path), words


def test_commands_that_are_named_exist():
    for place, words in _commands():
        assert words[0] in COMMANDS, f"{place}: hullwatch {words[0]}"
    for name, module in COMMANDS.items():
        assert importlib.util.find_spec(module), f"hullwatch {name}: no module {module}"


def test_options_that_are_named_exist():
    import typer.main

    app = typer.main.get_command(build())
    for place, words in _commands():
        command, said = app, ["hullwatch"]
        for word in words:
            if word == "--":  # what follows is another program's
                break
            below = getattr(command, "commands", {})
            if word in below:
                command, said = below[word], [*said, word]
            elif re.fullmatch(r"--[a-z-]+|-[a-z]", word):
                known = {one for option in command.params for one in option.opts}
                assert word in known | {"--help", "-h"}, f"{place}: {' '.join(said)} {word}"


def test_make_targets_that_are_named_exist():
    known = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    known |= {"distclean"}
    for path in DOCS:
        for line in _lines(path):
            found = re.match(r"make((?: [a-z-]+)+)(?= |$)", line)
            named = found[1].split() if found else []
            assert set(named) <= known, f"{_ids(path)}: make {set(named) - known}"


def test_the_queries_run(tmp_path):
    with_events = writer(tmp_path)
    with_events.write(opens(Builder()))
    with_events.add_findings([finding()])
    with_events.close()
    queries = [
        body
        for path in DOCS
        for _, language, body in _BLOCK.findall(path.read_text())
        if language == "sql"
    ]
    assert len(queries) >= 10
    with Reader(tmp_path) as reader:
        for query in queries:
            reader.hunt(query, 10)


def test_the_rule_that_is_shown_passes_its_cases(tmp_path):
    blocks = [
        body
        for _, language, body in _BLOCK.findall((ROOT / "docs/write-a-rule.md").read_text())
        if language == "yaml"
    ]
    rules, cases = blocks[0], blocks[1]
    (tmp_path / "model.test.yaml").write_text(cases)
    loaded = load_texts([(rules, "model.yaml")])
    assert not loaded.errors and not loaded.warnings
    assert len(read_cases(tmp_path / "model.test.yaml")) == 3
    assert all(result.ok for result in run_cases(loaded, [tmp_path / "model.test.yaml"]))


def test_the_policy_that_is_shown_passes_its_cases(tmp_path):
    text = (ROOT / "docs/write-a-policy.md").read_text()
    (policies,) = (body for _, language, body in _BLOCK.findall(text) if language == "cedar")
    (cases,) = (body for _, language, body in _BLOCK.findall(text) if language == "yaml")
    (tmp_path / "tickets.cedar").write_text(policies)
    engine = Engine.load([tmp_path])
    shown = cases_of(cases, "tickets.test.yaml")
    assert f"{len(engine.policies)} policies can be used" in text
    assert f"{len(shown)} passed, 0 failed" in text
    assert all(run_case(engine, case).ok for case in shown)


def test_what_policies_may_speak_of_is_documented():
    text = (ROOT / "docs/write-a-policy.md").read_text()
    for table in tables().strip().split("\n\n"):
        assert table in text, "hullwatch policy schema --markdown writes the tables"
    for name, annotation in ANNOTATIONS.items():
        assert f'| `@{name}("{annotation.example}")` | {annotation.doc} |' in text
    sets = {path.stem for path in (ROOT / "policies").glob("*.cedar")}
    assert sets <= set(_CODE.findall(text))


def test_places_of_secrets_are_documented():
    from hullwatch.agent.secrets.paths import PATHS

    text = (ROOT / "docs/secrets.md").read_text()
    assert {name for name, _ in PATHS if name} <= set(_CODE.findall(text))


def test_the_rules_of_the_pack_are_listed():
    from hullwatch.detect.catalogue import table

    rules = load([ROOT / "rules"])
    text = (ROOT / "docs/rules.md").read_text()
    assert table(rules) in text, "hullwatch rules list --rules rules --markdown writes the tables"
    assert f"{len(rules.rules)} rules" in text


def test_exit_codes_are_documented():
    from hullwatch.cli.errors import ExitCode

    text = (ROOT / "docs/exit-codes.md").read_text()
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)} == {*map(int, ExitCode)}


def test_blind_spots_are_documented():
    from hullwatch.coverage.blindspots import BLIND_SPOTS

    text = (ROOT / "docs/coverage.md").read_text().partition("## Blind spots")[2]
    rows = re.findall(r"^\| .* \| (?:tracepoint|lsm|both) \|$", text.partition("## Marks")[0], re.M)
    assert len(rows) == len(BLIND_SPOTS)


def test_marks_are_documented():
    from hullwatch.sensor.wire import Mark, ProcMark

    text = (ROOT / "docs/coverage.md").read_text().partition("## Marks")[2]
    named = {word for code in _CODE.findall(text) for word in code.split()}
    known = {str(mark.name).lower() for mark in (*Mark, *ProcMark)}
    rows = re.findall(r"^\| (`.*?) \|", text.partition("## Losses")[0], re.M)
    told = {word.strip("`") for row in rows for word in row.split(", ")}
    assert told <= known, told - known
    assert named & known


def test_no_file_names_this_machine():
    """What is committed runs anywhere: no absolute path of one checkout."""
    here = "/" + "work/"
    done = subprocess.run(
        ["git", "grep", "-nIF", here], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode > 1:
        pytest.skip("not a git checkout")
    assert not done.stdout, done.stdout


def test_the_baseline_rule_that_is_shown_passes_its_cases(tmp_path):
    text = (ROOT / "docs/baselines.md").read_text()
    rules, cases = (body for _, language, body in _BLOCK.findall(text) if language == "yaml")
    (tmp_path / "gcc.test.yaml").write_text(cases)
    loaded = load_texts([(rules, "gcc.yaml")])
    assert not loaded.errors and not loaded.warnings
    assert all(result.ok for result in run_cases(loaded, [tmp_path / "gcc.test.yaml"]))


def test_bounds_of_baselines_are_documented():
    from hullwatch.detect.baseline.kinds import KINDS

    text = (ROOT / "docs/baselines.md").read_text()
    rows = re.findall(r"^\| (\w+) \| .* \| (\d+) \| (\d+) \|$", text, re.M)
    assert rows == [(kind.name, str(kind.fold), str(kind.most)) for kind in KINDS]
