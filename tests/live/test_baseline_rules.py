"""Every rule of rules/baseline/, and the story about a new destination, in real containers.

What is new for an image is told once it has been learnt: so the image's learning time is made
short, things are done for the first time, then the profile is locked and other things are done. The
same things in a second container of the image are no findings.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hullwatch.detect.ruleset import load
from hullwatch.store.catalog import Catalog
from support.agent import PACK, Agent
from support.attacks.driven import DRIVER
from support.backtests import found_again
from support.bundles import Mount
from support.conformance import record
from support.images import Image
from support.needs import missing
from support.runc import Container, Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(900)

STORY = "Secret read, then a destination that this workload never used"
# Each line of /ctl/N is carried out by a child of its own: a process tree of its own.
PROGRAM = """
import os, sys, time
sys.path.insert(0, "/attacks")
from driver import *
if sys.argv[1] == "serve":
    listen(443)
    serve_names("203.0.113.9")
os.makedirs("/root/.aws", exist_ok=True); os.makedirs("/srv", exist_ok=True)
os.makedirs("/opt", exist_ok=True)
for path in ("/root/.aws/credentials", "/root/.netrc", "/root/.npmrc", "/srv/notes",
    "/srv/tools.py"):
    open(path, "w").close()
print("ready", flush=True)
number = 0
while True:
    try:
        with open(f"/ctl/{number}") as file:
            code = file.read()
    except FileNotFoundError:
        time.sleep(0.02)
        continue
    pid = os.fork()
    if pid == 0:
        exec(code, globals())
        os._exit(0)
    ended = os.waitpid(pid, 0)[1]
    print("did", number, ended, flush=True)
    number += 1
"""


class Act(NamedTuple):
    """code: for the program. object: that the rule's finding is about."""

    rule: str
    code: str
    object: str


def reach(address: str) -> str:
    return f'socket.create_connection(("{address}", 443)).close()'


FIRST = (
    Act(
        "First-seen program in the writable layer of an image",
        'import shutil; shutil.copy("/bin/true", "/opt/new"); run("/opt/new")',
        "/opt/new",
    ),
    Act("First-seen program of an image", 'run("/bin/id")', "/bin/id"),
    Act("Program that is rare for the fleet", 'run("/bin/uname")', "/bin/uname"),
    Act("First-seen destination of an image", reach("203.0.113.7"), "203.0.113.7:443"),
    Act("Destination that is rare for the fleet", reach("203.0.113.8"), "203.0.113.8:443"),
    Act(
        "First-seen secret read by an image",
        'open("/root/.aws/credentials").close()',
        "/root/.aws/credentials",
    ),
    Act(
        "First-seen listener of an image",
        'socket.create_server(("127.0.0.1", 7001)).close()',
        "127.0.0.1:7001",
    ),
    Act(STORY, f'open("/root/.netrc").close(); {reach("203.0.113.10")}', "203.0.113.10:443"),
)
DRIFT = (
    Act("Program outside the locked profile of its image", 'run("/bin/hostname")', "/bin/hostname"),
    Act(
        "Secret read outside the locked profile of its image",
        'open("/root/.npmrc").close()',
        "/root/.npmrc",
    ),
    Act(
        "File read outside the locked profile of its image",
        'open("/srv/notes").close()',
        "/srv/notes",
    ),
    Act(
        "Code opened outside the locked profile of its image",
        'open("/srv/tools.py").close()',
        "/srv/tools.py",
    ),
    Act("File changed outside the locked profile of its image", 'touch("/srv/made")', "/srv/made"),
    Act(
        "Destination outside the locked profile of its image",
        reach("203.0.113.11"),
        "203.0.113.11:443",
    ),
    Act(
        "Domain name outside the locked profile of its image",
        'resolve("new.example.org")',
        "new.example.org",
    ),
    Act(
        "Listener outside the locked profile of its image",
        'socket.create_server(("127.0.0.1", 7002)).close()',
        "127.0.0.1:7002",
    ),
)
ADDRESSES = ("203.0.113.7", "203.0.113.8", "203.0.113.9", "203.0.113.10", "203.0.113.11")


class Worker:
    def __init__(
        self, runc: Runc, image: Image, folder: Path, name: str, network: Path, what: str
    ) -> None:
        self.ctl = folder / name
        self.ctl.mkdir()
        driver = folder / f"{name}-driver"
        driver.mkdir()
        (driver / "driver.py").write_text(DRIVER.read_text())
        self.number = 0
        self.container: Container = runc.start(
            ["python3", "-c", PROGRAM, what],
            name=name,
            image=image,
            mounts=[Mount(self.ctl, "/ctl"), Mount(driver, "/attacks")],
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            network=network,
        )
        self.container.wait_for_output("ready", 240)

    def do(self, code: str) -> None:
        number, self.number = self.number, self.number + 1
        made = self.ctl / "new"
        made.write_text(code)
        made.rename(self.ctl / str(number))
        self.container.wait_for_output(f"did {number} 0\n", 240)


def cli(store: Path, *argv: str) -> None:
    command = [
        sys.executable,
        "-m",
        "hullwatch",
        "baseline",
        *argv,
        "--json",
        "--store",
        str(store),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=240)


def _key(container: str, rule: str, object_: str) -> tuple[str, str, str]:
    return container, rule, object_


class Judged(NamedTuple):
    """(rule, object) found live in the worker and in its twin, and by a back-test in the worker."""

    live: set[tuple[str, str]]
    twin: set[tuple[str, str]]
    again: set[tuple[str, str]]


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, busybox_image: Image, python_image: Image
) -> Iterator[Judged]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("new")
    store = folder / "store"
    digest = python_image.digest
    with Agent(store) as agent, Runc(busybox_image) as runc, Network("new") as network:
        for address in ADDRESSES:
            network.add_address(f"{address}/32")
        worker = Worker(runc, python_image, folder, "worker", network.path, "serve")
        # Another image that does two of the things: they are not rare for the fleet.
        talk = "/bin/id >/dev/null; nc -w 1 203.0.113.7 443 </dev/null; echo done"
        other = runc.start(["/bin/sh", "-c", talk], name="other", network=network.path)
        other.wait_for_output("done", 120)
        agent.settle()
        poll(lambda: digest in _profiles(store), seconds=120, waiting_for="a profile in the store")
        cli(store, "learn", digest, "--since", "1h", "--learning", "1ms")
        _followed(store, 1)
        for act in FIRST:
            worker.do(act.code)
        twin = Worker(runc, python_image, folder, "twin", network.path, "")
        for act in FIRST:
            twin.do(act.code)
        agent.settle()
        cli(store, "lock", digest, "--accept", "read /ctl/*")
        _followed(store, 2)
        for act in DRIFT:
            worker.do(act.code)
        agent.settle()
        live = {
            _key(one["container_full_id"], one["rule"], one["object"]) for one in agent.stored()
        }
        idents = (worker.container.id, twin.container.id)
    again = found_again(store, [PACK])
    yield Judged(
        {key[1:] for key in live if key[0] == idents[0]},
        {key[1:] for key in live if key[0] == idents[1]},
        {key[1:] for key in again if key[0] == idents[0]},
    )


def _profiles(store: Path) -> set[str]:
    with Catalog(store) as catalog:
        return {image for (image,) in catalog.rows("SELECT image FROM baselines")}


def _followed(store: Path, number: int) -> None:
    """Until the agent has said so often that it follows a decision."""

    def told() -> bool:
        with Catalog(store) as catalog:
            rows = catalog.rows("SELECT count(*) FROM notices WHERE kind = 'baseline'")
        return int(rows[0][0]) >= number

    poll(told, seconds=120, waiting_for="the agent to follow what was decided")


def test_every_rule_about_baselines_is_here() -> None:
    rules = {rule.name for rule in load([PACK / "base.yaml", PACK / "baseline"]).rules}
    assert {act.rule for act in (*FIRST, *DRIFT)} == rules | {STORY}


@pytest.mark.parametrize("act", [*FIRST, *DRIFT], ids=lambda act: act.rule)
def test_a_first_time_is_found_once_and_so_by_a_back_test(judged: Judged, act: Act) -> None:
    key = (act.rule, act.object)
    record(
        "own",
        act.rule,
        loads=True,
        live=key in judged.live,
        near_miss=key not in judged.twin,
        replay=key in judged.again,
        reason="",
    )
    assert key in judged.live, sorted(judged.live)
    assert key in judged.again, sorted(judged.again)
    assert key not in judged.twin


def test_what_the_image_does_is_no_news_in_another_container(judged: Judged) -> None:
    about = {act.rule for act in (*FIRST, *DRIFT)}
    assert {key for key in judged.twin if key[0] in about} == set()
