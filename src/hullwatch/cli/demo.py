"""`hullwatch demo`: attack real containers on this host and show what Hullwatch sees of it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from hullwatch.cli.alert import Alerts
from hullwatch.cli.demo_summary import print_summary
from hullwatch.cli.errors import CommandError, ExitCode, sensor_error
from hullwatch.cli.options import Json
from hullwatch.cli.show import console, print_json, safe, say
from hullwatch.demo.scratch import poll

if TYPE_CHECKING:
    from hullwatch.demo.gated import Gated
    from hullwatch.demo.runc import Container
    from hullwatch.demo.scenario import Stage
    from hullwatch.demo.watcher import Watcher

__all__ = ["register"]

_DEADLINE = 60.0
_PATIENCE = 300.0  # with a person, who has two minutes for each call
_PACKAGES = {"runc": "runc", "ip": "iproute2", "busybox": "busybox-static", "nsenter": "util-linux"}


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            readable=False,
            help="Keep what is seen here. Default: a new one.",
        ),
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Leave all of it running and go on watching.")
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            help="At a terminal: you approve or deny the tool calls that wait. Else the demo does.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Attack real containers on this host and show what Hullwatch sees.

    Starts Hullwatch, a model server, and an AI agent whose MCP server has a malicious plugin: it
    steals tokens (made up for this run) and sends them out (to a namespace of its own). Then the
    same with policies in force: the kernel lets the plugin connect until it has read a token. Then
    two tool calls wait at the gateway for a person: one is approved, one is denied.

    Exit code 0: all of it was found and stopped, the model server was left in peace, nothing was
    lost. 1: it was not.
    """
    _need()
    place = store or Path(tempfile.mkdtemp(prefix="hullwatch-demo-"))
    try:
        with _interruptible():
            summary = _Show(place, json).run(stay, interactive and not json and sys.stdin.isatty())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):  # all is removed: a second one changes nothing
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if store is None:
            shutil.rmtree(place, ignore_errors=True)
        raise
    if json:
        print_json({"summary": summary})
    if summary["missing"]:
        raise typer.Exit(ExitCode.NO)


def _need() -> None:
    """CommandError names what this machine lacks."""
    if os.geteuid() != 0:
        raise CommandError(
            "demo: needs root, as it loads BPF and starts containers", ExitCode.SENSOR
        )
    lacking = [package for name, package in _PACKAGES.items() if shutil.which(name) is None]
    if not Path("/usr/bin/python3").exists():
        lacking.append("python3")
    if lacking:
        raise CommandError(f"demo: apt-get install {' '.join(lacking)}", ExitCode.SENSOR)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: what it made is removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Speaker(Protocol):
    """A container, or the agent beside them. id: '' for what is in none."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def running(self) -> bool: ...


class _Show:
    """The demo as a person sees it; with json, the same as one value a line."""

    def __init__(self, store: Path, json: bool) -> None:
        self.store = store
        self.json = json
        self._alerts = Alerts()
        # Findings come in a thread of their own, and must not break a line that is being written.
        self._found: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._watching = self._cpu = 0.0

    # -- what is printed as it happens -----------------------------------------------------

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """A line for a step that takes a moment; what the body appends ends it."""
        began = time.monotonic()
        if not self.json:
            print(f"  {what:<42}", end="", flush=True)
        told: list[str] = []
        try:
            yield told
        except BaseException as error:
            if not self.json:
                ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                print(ended, flush=True)
            raise
        took = time.monotonic() - began
        if self.json:
            print_json({"step": what, "seconds": round(took, 3), "told": told})
        else:
            print(f"{took:5.1f} s", flush=True)
            for line in told:
                console().print(f"    {safe(line)}", style="dim")

    def said(self, speaker: Speaker, line: str) -> None:
        if self.json:
            print_json({"container": speaker.name, "said": line})
        else:
            console().print(f"{safe(speaker.name)}> {safe(line)}", style="green")

    def findings(self) -> None:
        """Those that have come since."""
        with contextlib.suppress(Empty):
            while True:
                finding = self._found.get_nowait()
                if self.json:
                    print_json({"finding": finding})
                else:
                    self._alerts.show(finding)

    # -- the course of it ------------------------------------------------------------------

    def run(self, stay: bool, person: bool) -> dict[str, Any]:
        from hullwatch.demo.scenario import EXPECTED, Stage
        from hullwatch.demo.watcher import Watcher, WatcherError

        self._title("Hullwatch demo: an AI agent whose MCP server has a malicious plugin")
        watcher: Watcher | None = None
        try:
            with Stage() as stage:
                with self.step("images, from programs of this machine"):
                    stage.make_images()
                    stage.make_network()
                with self.step("Hullwatch, in a process of its own") as told:
                    watcher = Watcher(
                        self.store,
                        ("--calls", str(stage.calls)),
                        on_finding=self._found.put,
                        log=stage.home / "hullwatch.log",
                    )
                    self._cpu, self._watching = _cpu(watcher.process.pid), time.monotonic()
                    told.extend(_about_agent(watcher))
                with self.step("container model-server") as told:
                    server, ready = stage.start_model_server()
                    told.append(f"{server.id[:12]}  {ready}")
                with self.step("container agent") as told:
                    agent = stage.start_agent()
                    told.append(f"{agent.id[:12]}  gets to work")
                self._act(watcher, agent, EXPECTED)
                watched = self._sum_up(watcher, stage, server, agent)
                held, second = self._hold(watcher, stage)
                gated = self._gate(watcher, stage, second, person)
                summary = self._joined(watcher, watched, held, gated)
                if stay:
                    _stored(watcher)
                    if not self.json:
                        print_summary(summary, self.store, agent)
                    self._stay(watcher, agent)
            if not stay:
                watcher.stop()
                if not self.json:
                    print_summary(summary, self.store, agent)
        except WatcherError as error:
            raise sensor_error(error) from error
        except (RuntimeError, TimeoutError) as error:  # of runc, or of a command of ours
            raise CommandError(f"demo: {error}") from error
        finally:
            _in_peace(watcher)
        return summary

    def _title(self, text: str) -> None:
        if not self.json:
            console().print(f"{text}\n", style="bold")

    def _act(
        self,
        watcher: Watcher,
        speaker: Speaker,
        rules: Collection[str],
        also: Callable[[], object] = lambda: True,
        seconds: float = _DEADLINE,
    ) -> None:
        """Show what the speaker says and what is found, until it has its answer, all of the rules
        were met in its container and `also` holds; or until time is up."""
        if not self.json:
            print()
        deadline = time.monotonic() + seconds
        shown = 0
        while time.monotonic() < deadline and watcher.process.poll() is None:
            lines = speaker.stdout.splitlines()
            for line in lines[shown:]:
                self.said(speaker, line)
            shown = len(lines)
            self.findings()
            answered = any(line.startswith("answers") for line in lines)
            met = _met(watcher, speaker.id) if rules else set()
            if also() and answered and met.issuperset(rules):
                break
            if not speaker.running:
                say(f"{speaker.name} ended: {speaker.stderr[-500:]}")
                break
            time.sleep(0.02)
        self.findings()

    def _hold(self, watcher: Watcher, stage: Stage) -> tuple[dict[str, Any], Container]:
        """The same attack again, in a new container that is held to policies; the container."""
        from hullwatch.demo.held import kernel_holds, put_into_force, stop_of
        from hullwatch.demo.scenario import EXPECTED, HELD, STOPPED

        assert stage.listener
        self._title("\nNow with policies: what has read a secret connects to nobody outside")
        with self.step("hullwatch policy apply") as told:
            held = put_into_force(watcher)
            told.append(
                f"set {held['version'][:12]}: {held['policies']} of its policies are the kernel's,"
                f" {held['answers']} answers in it"
            )
        with self.step("container agent-2, of the same image") as told:
            agent = stage.start_agent("agent-2", waits=True)
            count = held["guarded"]
            # Others may end meanwhile: then what comes of it shows whether it is held.
            with contextlib.suppress(TimeoutError):
                kernel_holds(watcher, lambda said: said["guarded"] > count)
            told.append(f"{agent.id[:12]}  is held, and gets to work")
        before = len(stage.listener.received)
        stage.let_go()
        found: list[dict[str, Any]] = []

        def stopped() -> bool:
            if not found and STOPPED in _met(watcher, agent.id):
                found.extend(filter(None, [stop_of(self.store, agent)]))
            return bool(found)

        self._act(watcher, agent, HELD, stopped)
        stop = found[0] if found else None
        call = _call_of(watcher, agent.id, STOPPED)
        if stop is not None and not self.json:
            console().print(_about_stop(stop, call), style="bold red")
        received = stage.listener.received[before:]
        met = _met(watcher, agent.id)
        missing = [f"no finding in agent-2: {rule}" for rule in HELD if rule not in met]
        missing += [
            f"agent-2 got out all the same: {rule}"
            for rule in EXPECTED
            if rule in met and rule not in HELD
        ]
        if stop is None:
            missing.append("no decision about a connection of agent-2")
        if _loot(received):
            missing.append("the loot of agent-2 has left")
        if not any(received):
            missing.append("the harmless connection of agent-2 did not arrive")
        return {
            "agent": agent.id,
            "decision": stop,
            "tool_call": stop["tool_call"] if stop else "",
            "call": call,
            "loot_bytes": len(_loot(received)),
            "harmless_bytes": sum(map(len, received)) - len(_loot(received)),
            "findings": sorted(met),
            "missing": missing,
        }, agent

    def _gate(
        self, watcher: Watcher, stage: Stage, server: Container, person: bool
    ) -> dict[str, Any]:
        """Tool calls that wait: one is approved, one is denied."""
        from hullwatch.demo.gated import Gated

        self._title("\nAnd at the gateway: what changes reports waits for a person")
        with self.step("hullwatch mcp --policy applied") as told:
            gated = Gated(stage, self.store, server)
            told.append("before an MCP server in agent-2; its client is an agent of this host")
            if not person:
                told.append("nobody is asked: the demo itself answers, with `hullwatch approvals`")
        answers: list[dict[str, Any]] = []

        def answer() -> bool:
            for waits in gated.waiting():
                if waits["held"] not in {one["id"] for one in answers}:
                    self.findings()
                    answers.append(self._answer(gated, waits, person, first=not answers))
            return True

        try:
            self._act(watcher, gated, (), answer, _PATIENCE if person else _DEADLINE)
            arrived = gated.arrived
        finally:
            gated.close()
        missing = [] if len(answers) == 2 else [f"{len(answers)} of 2 calls waited for a person"]
        for one in answers:
            one["arrived"] = one["tool"] in arrived
            if one["arrived"] is not one["approved"]:
                what = "arrived all the same" if one["arrived"] else "did not arrive"
                missing.append(f"the call of {one['tool']} {what}")
        by = "a person at the terminal" if person else "the demo itself"
        return {"answered_by": by, "calls": answers, "missing": missing}

    def _answer(
        self, gated: Gated, waits: dict[str, Any], person: bool, first: bool
    ) -> dict[str, Any]:
        tool = str(waits["resource"]).rpartition("/")[2]
        reason = f"{', '.join(waits['policies'])}: {waits['reason']}"
        if not self.json:
            console().print(f"waits> {safe(tool)}, by {safe(reason)}", style="yellow")
        if person:
            yes, why = _ask(tool, waits["deadline"] / 1e9 - time.time())
        else:
            yes, why = first, "it can be taken back" if first else "it cannot be taken back"
        said = gated.answer(waits["held"], yes, why)
        one = {
            "id": waits["held"],
            "tool": tool,
            "policies": list(waits["policies"]),
            "reason": waits["reason"],
            "approved": yes,
            "why": why,
        }
        if self.json:
            print_json({"approval": one})
        else:
            word = "approve" if yes else "deny"
            command = f'hullwatch approvals {word} {waits["held"]} --why "{why}"'
            console().print(f"$ {safe(command)}\n{safe(said)}", style="dim")
        return one

    def _sum_up(
        self, watcher: Watcher, stage: Stage, server: Container, agent: Container
    ) -> dict[str, Any]:
        """Of the first act, when only watched."""
        from hullwatch.demo.scenario import DROP, EXPECTED

        assert stage.listener
        of_agent = _met(watcher, agent.id)
        loot = _loot(stage.listener.received)
        return {
            "expected": len(EXPECTED),
            "seen": len(of_agent & set(EXPECTED)),
            "missing": [f"no finding: {rule}" for rule in EXPECTED if rule not in of_agent],
            "loot_bytes": len(loot),
            "loot_to": f"{DROP[0]}:{DROP[1]}",
            "loot_has_token": stage.token.encode() in loot,
            "agent": agent.id,
            "model_server": server.id,
        }

    def _joined(
        self,
        watcher: Watcher,
        watched: dict[str, Any],
        held: dict[str, Any],
        gated: dict[str, Any],
    ) -> dict[str, Any]:
        """All three acts, and what Hullwatch says of itself. missing: what was to be seen."""
        status = watcher.status() or {}
        losses = status.get("losses") or {}
        of_server = sorted(_met(watcher, watched["model_server"]))
        missing = [*watched["missing"], *held.pop("missing"), *gated.pop("missing")]
        missing += [f"the model server should be silent, but: {rule}" for rule in of_server]
        missing += [f"lost: {count} at {where}" for where, count in losses.items()]
        missing += [
            f"fault in {where}: {count}" for where, count in status.get("faults", {}).items()
        ]
        if not status:
            missing.append("Hullwatch itself has ended")
        found = watcher.findings.values()
        return {
            "store": str(self.store),
            **watched,
            "missing": missing,
            "held": held,
            "gated": gated,
            "findings": dict(Counter(one["priority"].lower() for one in found)),
            "model_server_findings": len(of_server),
            "losses": losses,
            "events": status.get("events", 0),
            "cpu_seconds": round(_cpu(watcher.process.pid) - self._cpu, 2),
            "seconds": round(time.monotonic() - self._watching, 2),
            "rss_bytes": status.get("rss_bytes", 0),
        }

    def _stay(self, watcher: Watcher, agent: Container) -> None:
        """Until Ctrl-C, or the agent's end."""
        say("watching on; Ctrl-C ends and removes the containers. Try in another terminal:")
        say(f"  runc exec {agent.id} /bin/cat /root/.aws/credentials")
        with contextlib.suppress(KeyboardInterrupt):
            while watcher.process.poll() is None:
                self.findings()
                time.sleep(0.05)


def _in_peace(watcher: Watcher | None) -> None:
    """Stop the agent, and let no second Ctrl-C leave it running."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if watcher is not None:
            watcher.stop()
    finally:
        signal.signal(signal.SIGINT, before)


def _about_agent(watcher: Watcher) -> list[str]:
    status = watcher.status() or {}
    lines = [
        f"tier {status.get('tier')}, kernel {status.get('kernel')}, {status.get('rules')} rules",
        f"store {watcher.store}",
    ]
    if status.get("tier_reason"):
        lines[0] += f" ({status['tier_reason']})"
    return lines


def _stored(watcher: Watcher) -> None:
    """Wait until what was seen is in the store: it is written within a second."""
    time.sleep(0.1)
    with contextlib.suppress(TimeoutError):
        poll(
            lambda: not ((watcher.status() or {}).get("store") or {}).get("pending"),
            seconds=5,
            waiting_for="the store",
        )


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used so far; 0 if it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _loot(received: list[bytes]) -> bytes:
    """What arrived outside and is base64, decoded: the plugin's other connection is not."""
    import base64
    import binascii

    loot = b""
    for data in received:
        with contextlib.suppress(binascii.Error):
            loot += base64.b64decode(data, validate=True)
    return loot


def _met(watcher: Watcher, container: str) -> set[str]:
    """Rules with a finding in this container (full id)."""
    found = list(watcher.findings.values())
    return {one["rule"] for one in found if one["container_full_id"] == container}


def _call_of(watcher: Watcher, container: str, rule: str) -> str:
    """The tool call, in words, in which a rule was met there first."""
    for one in list(watcher.findings.values()):
        if (one["rule"], one["container_full_id"]) == (rule, container):
            return str(one.get("call") or "")
    return ""


def _about_stop(stop: dict[str, Any], call: str) -> str:
    call = f", in tool call {safe(call)} ({safe(stop['tool_call'])})" if call else ""
    return (
        f"stopped> connect {safe(stop['resource'].partition(':')[2])}"
        f" by {safe(', '.join(stop['policies']))}: {safe(stop['reason'])}{call}"
    )


def _ask(tool: str, seconds: float) -> tuple[bool, str]:
    """What the person at the terminal says of a call; no answer in time is a no."""
    print(f"Let {safe(tool)} go on? yes or no, and why: ", end="", flush=True)
    if not select.select([sys.stdin], [], [], max(seconds - 5, 0))[0]:
        print()
        return False, "nobody answered"
    word, _, why = sys.stdin.readline().strip().partition(" ")
    return word.lower().rstrip(",:") in ("y", "yes"), why.strip() or "said at the terminal"
