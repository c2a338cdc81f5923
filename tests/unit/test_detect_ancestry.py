"""Ancestors in the same container: whoever started the container is not one of them."""

from __future__ import annotations

import pytest

from hullwatch.context.enriched import ProcessImage
from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.fields import process
from hullwatch.detect.row import Env
from support.enriched import image

HOST = (0xEFFFFFFC, 1, 2, 3, 4, 5, 6)
INSIDE = (0xF0000001, 1, 2, 3, 4, 5, 6)
DEEPER = (0xF0000002, 1, 2, 3, 4, 5, 6)


def chain(*links: tuple[str, tuple[int, ...]]) -> ProcessImage:
    at = None
    for slot, (name, namespaces) in enumerate(links):
        at = image(slot, 100 + slot, at, name=name, namespaces=namespaces)
    assert at is not None
    return at


def within(of: ProcessImage) -> list[str]:
    return [one.name for one in process.ancestors_within(of)]


def test_they_end_where_the_hosts_pid_namespace_begins():
    of = chain(("python3", HOST), ("runc", HOST), ("node", INSIDE), ("sh", INSIDE))
    assert within(of) == ["node"]
    assert [one.name for one in process.ancestors(of)] == ["node", "runc", "python3"]


def test_a_further_namespace_sheds_no_ancestors():
    of = chain(("runc", HOST), ("node", INSIDE), ("unshare", INSIDE), ("sh", DEEPER))
    assert within(of) == ["unshare", "node"]


def test_in_the_hosts_namespace_they_are_all_there_is():
    assert within(chain(("systemd", HOST), ("python3", HOST), ("sh", HOST))) == [
        "python3",
        "systemd",
    ]


def test_a_command_that_pip_installed_is_known_by_the_program_it_runs():
    field = next(one for one in process.FIELDS if one.name == "hw.proc.aexepath")
    server = image(0, 100, None, name="mcp-server-git", exepath="/usr/bin/python3.11")
    of = image(1, 101, server, name="sh")
    assert field.image is not None
    assert field.image(of, Env(HostAccounts()), None) == ("/usr/bin/python3.11",)


@pytest.mark.parametrize(("index", "name"), [(1, "node"), (2, None), (0, None)])
def test_by_number(index: int, name: str | None):
    field = next(one for one in process.FIELDS if one.name == "hw.proc.aname")
    of = chain(("runc", HOST), ("node", INSIDE), ("sh", INSIDE))
    assert field.image is not None
    assert field.image(of, Env(HostAccounts()), index) == name
