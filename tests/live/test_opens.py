"""Where there is no BPF LSM `hullwatch up` itself holds policies about opens, of labels and tool
calls too: what it stops is seen as any stop is, and nobody hangs when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hullwatch.context import tool_call
from hullwatch.decide.webhook import signature
from support.agent import PACK, Agent
from support.bundles import Mount
from support.guarded import apply, hullwatch
from support.hook import Hook, answer
from support.images import Image
from support.needs import missing
from support.puppet import Puppet
from support.runc import Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(300)  # no scenario: guests have BPF LSM

POLICIES = """
@id("no-keys") @reason("keys are for the sidecar") @quarantine("network")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && resource.path == "/etc/key" };

@id("plan") @effect("challenge") @deadline("5m")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && resource.path == "/etc/plan" };

@id("on-call") @effect("challenge") @deadline("5m") @approvers("link:oncall")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && resource.path == "/etc/call" };

@id("soon") @effect("challenge") @deadline("1s")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && resource.path == "/etc/soon" };

@id("seen") @mode("observe")
forbid (principal, action == Action::"open-write", resource)
when { context.container == "agent" && resource.path == "/etc/seen" };

@id("secret-stays")
forbid (principal, action == Action::"open-write", resource)
when { context.container == "agent" && context.labels.contains("secret") }
when { resource.path like "/srv/*" };

@id("no-reports")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && context has tool_call && context.tool_call == "report" }
when { context has server && context.server == "files" && resource.path == "/etc/figures" };

@id("no-clusters") @reason("agents have no cluster")
forbid (principal, action == Action::"use-secret", resource)
when { context.container == "agent" && resource has kind && resource.kind == "kubeconfig" };

@id("ask-keys") @effect("challenge") @deadline("5m")
forbid (principal, action == Action::"use-secret", resource)
when { context.container == "agent" && resource has kind && resource.kind == "private_key_file" };

@id("no-pickles")
forbid (principal, action == Action::"load-plugin", resource)
when { context.container == "agent" && resource has plugin && resource.plugin == "pickle" }
unless { context has tool_call && context.tool_call == "train" };

@id("by-parent")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && context has program && context.program == "/bin/cat" }
when { resource.path == "/etc/motd" };

@id("by-command")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "agent" && context has command && context.command like "*" };
"""
SECRET = "sixteen bytes or more"
FILES = (
    "etc/key",
    "etc/plan",
    "etc/call",
    "etc/soon",
    "etc/seen",
    "etc/figures",
    "etc/motd",
    "etc/a.pem",
    "srv/model.pkl",
    "root/.aws/credentials",
    "root/.kube/config",
)


class Stage(NamedTuple):
    agent: Agent
    store: Path
    box: Puppet
    hook: Hook

    @property
    def opens(self) -> dict[str, Any]:
        found: dict[str, Any] = (self.agent.status() or {})["opens"]
        return found

    def decisions(self) -> list[dict[str, Any]]:
        said = hullwatch("decisions", "--json", "--log", str(self.store))
        return [json.loads(line) for line in said.splitlines()]

    def logged(self, **fields: Any) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            for one in self.decisions():
                if all(one.get(name) == value for name, value in fields.items()):
                    return one
            return None

        return poll(found, seconds=30, waiting_for=f"an entry with {fields}")


def reading(path: str) -> str:
    return f"said = open({path!r}).read()"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, python_image: Image) -> Iterator[Stage]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("opens")
    (store := folder / "store").mkdir(mode=0o700)
    (desk := folder / "desk").mkdir()
    (calls := folder / "calls").mkdir()
    apply(store, POLICIES)
    mounts = (Mount(calls, "/calls"), Mount(Path(tool_call.__file__).parent, "/lib-hullwatch"))
    (secret := folder / "secret").write_text(SECRET)
    secret.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch, Hook() as hook:
        patch.setenv("HULLWATCH_APPROVALS", str(desk))
        asking = {"hook": hook.url, "secret": f"file:{secret}", "name": "oncall"}
        patch.setenv("ASKING", json.dumps(asking))
        rules = (PACK / "base.yaml", PACK / "policy", PACK / "agent" / "tools.yaml")
        with (
            Agent(store, rules=rules, calls=calls / "calls.sock") as agent,
            Runc(python_image) as runc,
        ):
            if (agent.status() or {}).get("tier") != "tracepoint":
                pytest.skip("BPF LSM holds opens here: tests/live/test_guard_bypasses.py")
            box = Puppet(runc, python_image, folder, "agent", mounts=mounts)
            for name in FILES:
                (box.rootfs / name).parent.mkdir(parents=True, exist_ok=True)
                (box.rootfs / name).write_text("key")
            box.until(reading("/etc/key"), "EPERM")
            patch.delenv("ASKING")
            yield Stage(agent, store, box, hook)
            assert not (agent.status() or {}).get("faults")


def test_a_flood_of_held_opens_is_found(stage: Stage):
    many = """
import threading
said = []
def ask():
    try:
        open('/etc/soon').read()
    except PermissionError:
        said.append(1)
asks = [threading.Thread(target=ask) for _ in range(8)]
for one in asks: one.start()
for one in asks: one.join()
said = len(said)
"""
    assert stage.box.do(many) == 8

    def found() -> bool:
        names = {one["rule"] for one in stage.agent.stored(stage.box.container.id)}
        return "Flood of actions that wait for a person" in names

    poll(found, seconds=30, waiting_for="the finding")


def test_an_open_is_refused_and_seen_as_any_stop(stage: Stage):
    box, where = stage.box, ("--store", str(stage.store))
    assert box.do(reading("/etc/key")) == "EPERM"
    box.do("os.link('/etc/key', '/tmp/other')")
    assert box.do(reading("/tmp/other")) == "EPERM"
    told = stage.logged(action="open-read", effect="block", policies=["no-keys"])
    assert (told["resource"], told["tier"]) == ("Path:/etc/key", "fanotify")
    assert box.do("open('/etc/seen', 'w').write('x'); said = 1") == 1
    assert stage.logged(policies=["seen"])["wanted"] == "block"
    stage.agent.settle()
    [found] = [one for one in stage.agent.stored(box.container.id) if "Policy" in one["rule"]]
    assert found["rule"] == "Policy stopped an action"
    assert "/etc/key" in {one["object"] for one in found["evidence"]}
    tree = hullwatch("tree", box.container.name, *where)
    assert "STOPPED  open-read /etc/key, by no-keys: keys are for the sidecar" in tree, tree
    assert "WOULD STOP open-write /etc/seen, by seen" in tree, tree
    lines = hullwatch("events", "--class", "policy", *where)
    assert "open-read /etc/key: denied" in lines, lines
    # Once: the kernel's half did not log it again.
    entries = [one for one in stage.decisions() if one["resource"] == "Path:/etc/key"]
    assert {one["tier"] for one in entries} == {"fanotify"}
    row = json.loads(hullwatch("quarantine", "list", "--json", *where))
    assert (row["container"], row["owner"]) == ("agent", "policy no-keys")
    hullwatch("quarantine", "lift", row["id"], "--owner", "ann", *where)


def test_secrets_and_code_are_refused_by_their_kind(stage: Stage):
    assert stage.box.do(reading("/root/.kube/config")) == "EPERM"
    assert stage.box.do(reading("/srv/model.pkl")) == "EPERM"
    cat = "said = subprocess.run(['/bin/cat', '/srv/model.pkl']).returncode"
    assert stage.box.do(cat) == 0
    told = stage.logged(action="use-secret", effect="block", policies=["no-clusters"])
    assert told["resource"] == "Secret:/root/.kube/config"
    assert stage.logged(action="load-plugin", effect="block")["policies"] == ["no-pickles"]
    stage.agent.settle()
    tree = hullwatch("tree", stage.box.container.name, "--store", str(stage.store))
    assert "STOPPED  use-secret /root/.kube/config, by no-clusters: agents have no" in tree, tree
    assert "STOPPED  load-plugin /srv/model.pkl, by no-pickles" in tree, tree
    found = [one["evidence"] for one in stage.agent.stored(stage.box.container.id)]
    objects = {one["object"] for evidence in found for one in evidence}
    assert {"/root/.kube/config", "/srv/model.pkl"} <= objects


ANSWERS = (("/etc/plan", "approve", "key"), ("/etc/plan", "deny", "EPERM"))


def test_a_challenge_waits_for_a_person(stage: Stage):
    for path, wish, said in (*ANSWERS, ("/etc/a.pem", "approve", "key")):
        before = {one["held"] for one in stage.decisions()}
        waits = stage.box.begin(reading(path))
        held = poll(
            lambda before=before: next(  # type: ignore[misc]
                (
                    one["held"]
                    for one in stage.decisions()
                    if one["kind"] == "held" and one["held"] not in before
                ),
                None,
            ),
            seconds=30,
            waiting_for="one that waits",
        )
        hullwatch("approvals", wish, held, "--why", "a test")
        assert stage.box.end(waits) == said
    tree = hullwatch("tree", stage.box.container.name, "--store", str(stage.store))
    assert tree.count("STOPPED  open-read /etc/plan, by plan") == 1, tree


def test_somebody_elsewhere_is_told_and_answers_by_link(stage: Stage):
    waits = stage.box.begin(reading("/etc/call"))

    def told() -> tuple[dict[str, str], bytes] | None:
        return next((one for one in stage.hook.told if b"/etc/call" in one[1]), None)

    headers, body = poll(told, seconds=30, waiting_for="the webhook")
    signed = signature(SECRET.encode(), headers["Hullwatch-Timestamp"], body)
    assert headers["Hullwatch-Signature"] == signed
    answer(json.loads(body)["link"], "approve", "ticket 7")
    assert stage.box.end(waits) == "key"
    assert stage.logged(policies=["on-call"], kind="approved")["by"] == "link:oncall"
    poll(lambda: stage.opens["webhook_sent"] > 0, seconds=30, waiting_for="its count")
    assert not stage.opens["webhook_failed"]
    # Neither is to be read off the processes.
    keeper = Path(f"/proc/{stage.opens['worker']}/stat").read_text().rpartition(")")[2].split()[1]
    for pid in (keeper, stage.opens["worker"]):
        # Whoever starts many programs is not to have it taken for hung.
        assert os.getpriority(os.PRIO_PROCESS, int(pid)) == -20
        for name in ("cmdline", "environ"):
            found = Path(f"/proc/{pid}/{name}").read_bytes()
            assert SECRET.encode() not in found and b"/hook" not in found
        assert os.stat(f"/proc/{pid}/fd/0").st_size == 0


def test_labels_calls_and_programs_count(stage: Stage):
    write = "open('/srv/out', 'w').write('x'); said = 'written'"
    assert stage.box.do("os.makedirs('/srv', exist_ok=True)\n" + write) == "written"
    assert stage.box.do("open('/root/.aws/credentials').read()\n" + write) == "EPERM"
    assert stage.box.do(write) == "written"  # another process has read none
    within = f"""
import sys
sys.path.insert(0, "/lib-hullwatch")
os.environ["HULLWATCH_CALLS"] = "/calls/calls.sock"
from tool_call import tool_call
with tool_call('%s', server='files'): {reading("/etc/figures")}
"""
    # A workload waits 0.2 s for an agent, and goes on: on a crowded machine that may be too short.
    stage.box.until(within % "report", "EPERM")
    assert stage.box.do(within % "list") == "key"
    loads = within.replace("/etc/figures", "/srv/model.pkl")
    stage.box.until(loads % "train", "key")
    assert stage.box.do(loads % "list") == "EPERM"
    cat = "said = subprocess.run(['/bin/cat', '/etc/motd']).returncode"
    assert stage.box.do(cat) == 1 and stage.box.do(reading("/etc/motd")) == "key"
    unheld = (stage.agent.status() or {})["policy"]["unheld"]
    assert unheld == {"by-command": "command: not told of opens"}


def test_who_answers_is_started_anew_and_the_gap_is_told(stage: Stage):
    before = stage.opens
    os.kill(before["worker"], signal.SIGKILL)
    poll(lambda: stage.opens["restarts"] == 1, seconds=30, waiting_for="a new start")
    stage.box.until(reading("/etc/key"), "EPERM")
    said = hullwatch("status", "--store", str(stage.store))
    assert "started anew 1 time" in said, said


def test_opens_go_on_when_the_agent_is_killed(stage: Stage, tmp_path: Path):
    """Beside another one, which has no set until it is put into force, and sleeps until then."""
    (store := tmp_path / "store").mkdir(mode=0o700)
    with Agent(store, rules=()) as agent:
        opens = (agent.status() or {})["opens"]
        assert opens["state"] == "asleep" and opens["rss_bytes"] < 24 << 20
        apply(
            store,
            '@id("x") forbid (principal, action == Action::"open-read", resource)'
            ' when { context.container == "agent" && resource.path == "/etc/left" };',
        )
        (stage.box.rootfs / "etc/left").write_text("there")
        stage.box.until(reading("/etc/left"), "EPERM")
        agent.process.kill()
        agent.process.wait(20)
        stage.box.until(reading("/etc/left"), "there")


def test_the_command_leaves_to_the_agent_what_it_asks(stage: Stage):
    argv = [sys.executable, "-m", "hullwatch", "guard", "--store", str(stage.store)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "asks about opens and execs already" in done.stderr, done.stderr
