"""`hullwatch demo`: attack real containers on this host and show what Hullwatch sees of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hullwatch.cli.alert import Alerts
from hullwatch.cli.errors import CommandError, ExitCode, sensor_error
from hullwatch.cli.options import Json
from hullwatch.cli.show import console, print_json, safe, say, size
from hullwatch.demo.scratch import poll

if TYPE_CHECKING:
    from hullwatch.demo.runc import Container
    from hullwatch.demo.scenario import Stage
    from hullwatch.demo.watcher import Watcher

__all__ = ["register"]

_DEADLINE = 60.0
_PACKAGES = {"runc": "runc", "ip": "iproute2", "busybox": "busybox-static"}


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
    json: Json = False,
) -> None:
    """Attack real containers on this host and show what Hullwatch sees.

    Starts Hullwatch, a model server, and an AI agent whose MCP server has a malicious plugin: it
    steals tokens (made up for this run) and sends them out (to a namespace of its own). Exit code
    0: all of it was found, the model server was left in peace, nothing was lost. 1: it was not.
    """
    _need()
    place = store or Path(tempfile.mkdtemp(prefix="hullwatch-demo-"))
    try:
        with _interruptible():
            summary = _Show(place, json).run(stay)
    except BaseException:
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

    def said(self, container: Container, line: str) -> None:
        if self.json:
            print_json({"container": container.name, "said": line})
        else:
            console().print(f"{safe(container.name)}> {safe(line)}", style="green")

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

    def run(self, stay: bool) -> dict[str, Any]:
        from hullwatch.demo.scenario import Stage
        from hullwatch.demo.watcher import Watcher, WatcherError

        if not self.json:
            console().print("Hullwatch demo: an AI agent whose MCP server has a malicious plugin\n")
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
                if not self.json:
                    print()
                self._watch(watcher, agent)
                summary = self._sum_up(watcher, stage, server, agent)
                if stay:
                    _stored(watcher)
                    if not self.json:
                        self._print(summary, agent)
                    self._stay(watcher, agent)
            if not stay:
                watcher.stop()
                if not self.json:
                    self._print(summary, agent)
        except WatcherError as error:
            raise sensor_error(error) from error
        finally:
            _in_peace(watcher)
        return summary

    def _watch(self, watcher: Watcher, agent: Container) -> None:
        """Until all that is expected was found and the agent has its answer, or time is up."""
        from hullwatch.demo.scenario import EXPECTED

        deadline = time.monotonic() + _DEADLINE
        shown = 0
        while time.monotonic() < deadline and watcher.process.poll() is None:
            lines = agent.stdout.splitlines()
            for line in lines[shown:]:
                self.said(agent, line)
            shown = len(lines)
            self.findings()
            rules = {finding["rule"] for finding in watcher.findings.values()}
            answered = any(line.startswith("answers") for line in lines)
            if answered and rules.issuperset(EXPECTED):
                break
            if not agent.running:
                say(f"the agent's container ended: {agent.stderr[-500:]}")
                break
            time.sleep(0.02)
        self.findings()

    def _sum_up(
        self, watcher: Watcher, stage: Stage, server: Container, agent: Container
    ) -> dict[str, Any]:
        from hullwatch.demo.scenario import DROP, EXPECTED

        found = list(watcher.findings.values())
        of_agent = {one["rule"] for one in found if one["container_full_id"] == agent.id}
        of_server = sorted(one["rule"] for one in found if one["container_full_id"] == server.id)
        status = watcher.status() or {}
        losses = status.get("losses") or {}
        received = _loot(stage)
        missing = [f"no finding: {rule}" for rule in EXPECTED if rule not in of_agent]
        missing += [f"the model server should be silent, but: {rule}" for rule in of_server]
        missing += [f"lost: {count} at {where}" for where, count in losses.items()]
        missing += [
            f"fault in {where}: {count}" for where, count in status.get("faults", {}).items()
        ]
        if not status:
            missing.append("Hullwatch itself has ended")
        return {
            "store": str(self.store),
            "expected": len(EXPECTED),
            "seen": len(of_agent & set(EXPECTED)),
            "missing": missing,
            "findings": dict(Counter(one["priority"].lower() for one in found)),
            "model_server_findings": len(of_server),
            "loot_bytes": len(received),
            "loot_to": f"{DROP[0]}:{DROP[1]}",
            "loot_has_token": stage.token.encode() in received,
            "losses": losses,
            "events": status.get("events", 0),
            "cpu_seconds": round(_cpu(watcher.process.pid) - self._cpu, 2),
            "seconds": round(time.monotonic() - self._watching, 2),
            "rss_bytes": status.get("rss_bytes", 0),
            "agent": agent.id,
            "model_server": server.id,
        }

    def _print(self, summary: dict[str, Any], agent: Container) -> None:
        out = console()
        out.print("\nWhat happened in the agent's container", style="bold")
        _draw(self.store, agent)
        out.print("\nIn figures", style="bold")
        counts = ", ".join(f"{count} {name}" for name, count in summary["findings"].items())
        arrived = "with the tokens" if summary["loot_has_token"] else "without a token"
        losses = ", ".join(f"{n} at {where}" for where, n in summary["losses"].items())
        for name, value in (
            ("attack", f"{summary['seen']} of {summary['expected']} steps found"),
            (
                "theft",
                f"{summary['loot_bytes']} bytes reached {summary['loot_to']}, {arrived} in them",
            ),
            ("model server", _quiet(summary["model_server_findings"])),
            ("findings", counts or "none"),
            ("events", f"{summary['events']} read from the kernel"),
            ("lost", losses or "nothing"),
            (
                "Hullwatch",
                f"{summary['cpu_seconds']:.2f} s of CPU in {summary['seconds']:.1f} s of watching,"
                f" {size(summary['rss_bytes'])} of memory",
            ),
        ):
            print(f"  {name:<14}{safe(value)}")
        for line in summary["missing"]:
            out.print(f"  {'MISSING':<14}{safe(line)}", style="bold red")
        self._next(summary)

    def _next(self, summary: dict[str, Any]) -> None:
        console().print("\nWhat to run next", style="bold")
        me = _own_name()
        steps = (
            (f"export HULLWATCH_STORE={self.store}", "where all of this is kept"),
            (f"{me} findings", "each with its id"),
            (f"{me} findings show ID", "one explained: evidence, processes, rule"),
            (f"{me} tree {summary['agent'][:12]}", "the tree above; --files names every file"),
            (f"{me} tree {summary['model_server'][:12]}", "the model server, for comparison"),
            (
                f"{me} hunt \"SELECT container, name, object FROM events WHERE class = 'connect'\"",
                "any question, in SQL",
            ),
            (f"{me} doctor", "what can be seen on this machine, and what cannot"),
        )
        for command, why in steps:
            if len(command) > 52:
                print(f"  {command}\n  {'':<52}  # {why}")
            else:
                print(f"  {command:<52}  # {why}")

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


def _loot(stage: Stage) -> bytes:
    """What arrived outside, decoded."""
    import base64
    import binascii

    received = stage.listener.received if stage.listener else b""
    try:
        return base64.b64decode(received, validate=True)
    except binascii.Error:
        return received


def _quiet(count: int) -> str:
    return "served a request and read its weights: no finding" if not count else f"{count} findings"


def _draw(store: Path, agent: Container) -> None:
    from hullwatch.cli.events import scope_sql
    from hullwatch.cli.tree import draw
    from hullwatch.store.query import Reader
    from hullwatch.store.story import tell

    with Reader(store, None, None, agent.id) as reader:
        draw(tell(reader, scope_sql(reader.scope)), agent.name)


def _own_name() -> str:
    """How this program was called, as a person would call it again."""
    called = Path(sys.argv[0])
    if called.name != "hullwatch":
        return f"{Path(sys.executable).name} -m hullwatch"
    if shutil.which("hullwatch") == str(called.resolve()):
        return "hullwatch"
    with contextlib.suppress(ValueError):
        return str(called.resolve().relative_to(Path.cwd()))
    return str(called)
