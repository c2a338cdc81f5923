"""`hullwatch up`: watch this host until Ctrl-C."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

# Measured: Arrow's own pools keep what a long-lived agent has let go of.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import typer

from hullwatch.agent.planted import FOLDER
from hullwatch.cli.alert import Alerts, show_finding
from hullwatch.cli.asking import NOBODY, Asking, asks
from hullwatch.cli.canary import planted_values
from hullwatch.cli.errors import CommandError, ExitCode, sensor_error
from hullwatch.cli.options import DEFAULT_STORE, Json, Rules, Store
from hullwatch.cli.rules import default_rules
from hullwatch.cli.show import print_json, safe, say, size
from hullwatch.context.etc import name_servers

if TYPE_CHECKING:
    from hullwatch.detect.finding import Finding
    from hullwatch.detect.ruleset import RuleSet

_CALLS = Path("/run/hullwatch/calls.sock")

__all__ = ["load_rules", "register", "show_finding"]


def register(app: typer.Typer) -> None:
    app.command("up")(up)


@asks
def up(
    store: Store = DEFAULT_STORE,
    rules: Rules = None,
    record: Annotated[
        bool, typer.Option("--record", help="Store every event, not only what rules may want.")
    ] = False,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            metavar="TIER",
            help="Force a tier (lsm, tracepoint). Default: the best there is.",
        ),
    ] = None,
    max_bytes: Annotated[
        int,
        typer.Option(
            "--max-bytes",
            metavar="BYTES",
            min=1 << 20,
            help="Size of the store; the oldest events go first.",
        ),
    ] = 2 << 30,
    max_age: Annotated[
        str,
        typer.Option("--max-age", metavar="TIME", help="Age of stored events: 12h, 7d."),
    ] = "7d",
    cpu_budget: Annotated[
        float,
        typer.Option(
            "--cpu-budget",
            metavar="PERCENT",
            min=0.0,
            max=100.0,
            help="Percent of all cores. Above it, repeats become counts; 0: no limit.",
        ),
    ] = 2.0,
    shed_new: Annotated[
        bool,
        typer.Option(
            "--shed-new",
            help="Let the budget cost even events on files and addresses never seen before.",
        ),
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            metavar="NAMES",
            help="Which the kernel gives and follows: secret, private, untrusted, or none.",
        ),
    ] = "secret,private",
    label_host: Annotated[
        bool,
        typer.Option("--label-host", help="Processes outside of containers carry labels, too."),
    ] = False,
    private: Annotated[
        list[str] | None,
        typer.Option(
            "--private",
            metavar="PATTERN",
            help="Who reads such paths carries `private`: /srv/customers/**, *.sqlite; may be"
            " repeated.",
        ),
    ] = None,
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted",
            metavar="NETWORK",
            help="Who talks to it is not `untrusted` for that: 198.51.100.0/24; may be repeated.",
        ),
    ] = None,
    calls: Annotated[
        Path | None,
        typer.Option(
            "--calls",
            metavar="SOCKET",
            help="Where gateways and workloads tell of their tool calls. Default:"
            " /run/hullwatch/calls.sock, or calls.sock in another --store.",
        ),
    ] = None,
    tap: Annotated[
        bool,
        typer.Option(
            "--tap/--no-tap",
            help="Read calls of tools and models out of what processes read and write: pipes,"
            " sockets, TLS. What they say is not kept, but for --content.",
        ),
    ] = True,
    content: Annotated[
        list[str] | None,
        typer.Option(
            "--content",
            metavar="WORKLOAD",
            help="Keep what is said in calls of such workloads, without secrets: a container's name"
            " or image, a pod or NAMESPACE/POD, with * and ?; `host`: what runs in no container."
            " May be repeated. Default: nobody's.",
        ),
    ] = None,
    content_limit: Annotated[
        int,
        typer.Option(
            "--content-limit",
            metavar="BYTES",
            help="Of one argument, result, prompt or answer: 256 to 65536.",
        ),
    ] = 8 << 10,
    content_keep: Annotated[
        str,
        typer.Option("--content-keep", metavar="TIME", help="Age at which it is removed: 1h, 7d."),
    ] = "1d",
    content_max_bytes: Annotated[
        int,
        typer.Option(
            "--content-max-bytes",
            metavar="BYTES",
            min=1 << 20,
            help="Of all content; the oldest goes first.",
        ),
    ] = 64 << 20,
    enforce: Annotated[
        bool,
        typer.Option(
            "--enforce/--no-enforce",
            help="Hold containers to the policies that `hullwatch policy apply` put into force.",
        ),
    ] = True,
    files: Annotated[
        bool,
        typer.Option(
            "--files/--no-files",
            help="Also to those about opening files and running programs that the kernel cannot"
            " ask, or hold for a person; without BPF LSM these are all about files. Each open (or"
            " exec) of a container that one could hold for then waits for an answer"
            " (docs/files.md).",
        ),
    ] = True,
    told: Asking = NOBODY,
    resolver: Annotated[
        list[str] | None,
        typer.Option(
            "--resolver",
            metavar="ADDRESS",
            help="Name server of containers, whose word about names counts for policies: the"
            " cluster's, 10.96.0.10; may be repeated. Default: those in /etc/resolv.conf.",
        ),
    ] = None,
    otlp: Annotated[
        list[str] | None,
        typer.Option(
            "--otlp",
            metavar="ADDRESS",
            help="Take spans of instrumented frameworks there: 127.0.0.1:4318 (HTTP and gRPC), or"
            " unix:/PATH; may be repeated.",
        ),
    ] = None,
    export_otlp: Annotated[
        str,
        typer.Option("--export-otlp", metavar="URL", help="Tell calls and findings to it by OTLP."),
    ] = "",
    export_headers: Annotated[
        str,
        typer.Option(
            "--export-otlp-headers",
            metavar="FROM",
            help="Headers for it, such as an API key: file:PATH or env:NAME, never the value.",
        ),
    ] = "",
    export_ca: Annotated[
        Path | None,
        typer.Option("--export-otlp-ca", metavar="FILE", help="Certificates to verify it with."),
    ] = None,
    json: Json = False,
) -> None:
    """Watch every container and process of this host; findings appear as they happen."""
    from hullwatch import memory, privileges
    from hullwatch.cli.when import parse_duration
    from hullwatch.store import lock

    # Command lines and paths of every workload end up in these files: for the agent's user only.
    os.umask(0o077)
    memory.be_frugal()
    max_seconds = parse_duration(max_age, "--max-age")
    given = tuple(name for name in labels.split(",") if name and name != "none")
    _check_labels(given, private or (), trusted or ())
    _check_content(content or (), content_limit)
    _check_addresses(resolver or ())
    content_seconds = parse_duration(content_keep, "--content-keep")
    if content_seconds < 1:
        raise CommandError(f"--content-keep {content_keep}: at least 1s", ExitCode.USAGE)
    told = told.checked(enforce and files, "--enforce and --files")
    # Before anybody watches: to open a canary is a use of it.
    canaries = planted_values(rules or [FOLDER]) if content else ()
    lock.make(store)
    elsewhere = told.opened()  # while any port may be taken
    rights = privileges.begin(store, *store.iterdir())
    # From here on, as importing them makes threads.
    from hullwatch.daemon import Daemon, Options, route_signals
    from hullwatch.sensor.libbpf import BpfError
    from hullwatch.sensor.programs import SensorError

    ruleset = load_rules(rules)
    options = Options(
        store=store,
        record=record,
        tier=tier,
        max_bytes=max_bytes,
        max_age=max_seconds,
        cpu_budget=cpu_budget / 100,
        shed_new=shed_new,
        tap=tap,
        content=tuple(content or ()),
        content_limit=content_limit,
        content_keep=content_seconds,
        content_max_bytes=content_max_bytes,
        canaries=canaries,
        labels=given,
        label_host=label_host,
        private=tuple(private or ()),
        trusted=tuple(trusted or ()),
        otlp=tuple(otlp or ()),
        export=export_otlp,
        export_headers=export_headers,
        export_ca=export_ca,
        enforce=enforce,
        files=files,
        elsewhere=elsewhere,
        resolvers=tuple(resolver or name_servers()),
        calls=calls or (_CALLS if store == DEFAULT_STORE else store / "calls.sock"),
    )

    alerts = Alerts()
    show = print_json if json else alerts.show

    def on_findings(findings: list[Finding]) -> None:
        for finding in findings:
            show(finding)

    try:
        daemon = Daemon(
            options, ruleset, rights, on_findings, lambda kind, text: say(f"{kind}: {text}")
        )
    except ValueError as error:
        raise CommandError(f"--tier: {error}", ExitCode.USAGE) from error
    except (SensorError, BpfError) as error:
        raise sensor_error(error) from error
    route_signals(daemon)
    alerts.known(daemon.earlier)

    def ready() -> None:
        facts = daemon.sensor.facts
        say(f"watching this host: tier {facts.tier.value}, kernel {facts.release}")
        if facts.reason:
            say(f"  {facts.reason}; see `hullwatch doctor`")
        kept = "every event" if record else "what rules may want and counts"
        say(
            f"{len(daemon.engine.rules)} rules; keeps {kept}, {size(max_bytes)} at most, in {store}"
        )
        say("Ctrl-C ends; ask in another terminal: hullwatch status, findings, tree, hunt")

    daemon.run(ready)
    say("ended; everything seen so far is stored")


def load_rules(paths: list[Path] | None) -> RuleSet:
    """The rule set of the given paths or the pack; refusals are said on stderr, not hidden."""
    import sys

    from hullwatch.detect.ruleset import load

    ruleset = load(paths or default_rules())
    for error in ruleset.errors:
        sys.stderr.write(f"rule refused: {safe(error)}\n")
    if not ruleset.rules:
        given = "".join(f" {path}" for path in paths or ())
        raise CommandError(
            f"no rule could be loaded; `hullwatch rules check{given}` says why", ExitCode.CONTENT
        )
    return ruleset


def _check_labels(labels: Iterable[str], private: Iterable[str], trusted: Iterable[str]) -> None:
    """Before anything is opened: CommandError says what is wrong with them."""
    known = ("secret", "private", "untrusted")
    for name in labels:
        if name not in known:
            raise CommandError(f"--labels {name}: choose from {', '.join(known)}", ExitCode.USAGE)
    for text in private:
        if not text.isascii() or not text:
            raise CommandError(f"--private {text}: only ASCII characters", ExitCode.USAGE)
    for text in trusted:
        try:
            ipaddress.ip_network(text)
        except ValueError as problem:
            raise CommandError(f"--trusted {text}: {problem}", ExitCode.USAGE) from None


def _check_addresses(given: Iterable[str]) -> None:
    """As `_check_labels`."""
    for text in given:
        try:
            ipaddress.ip_address(text)
        except ValueError as problem:
            raise CommandError(f"--resolver {text}: {problem}", ExitCode.USAGE) from None


def _check_content(patterns: Iterable[str], limit: int) -> None:
    """As `_check_labels`."""
    from hullwatch.agent.content import LIMITS, pattern_problem

    for text in patterns:
        if problem := pattern_problem(text):
            raise CommandError(f"--content {text!r}: {problem}", ExitCode.USAGE)
    if not LIMITS[0] <= limit <= LIMITS[1]:
        raise CommandError(
            f"--content-limit {limit}: {LIMITS[0]} to {LIMITS[1]} bytes", ExitCode.USAGE
        )
