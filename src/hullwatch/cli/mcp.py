"""`hullwatch mcp`: the gateway before an MCP server, and the tool definitions that it trusts."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json as json_
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from hullwatch.cli.asking import NOBODY, Asking, address, asking, asks, at_desk
from hullwatch.cli.decisions import HeadFile, LogFolder
from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.options import DEFAULT_STORE, Json, Store
from hullwatch.cli.policies import asked_set
from hullwatch.cli.show import iso, print_json, print_table, safe, say

if TYPE_CHECKING:
    from hullwatch.agent.mcp.observer import Observer
    from hullwatch.agent.mcp.pins import Pin, Pins
    from hullwatch.agent.mcp.signals import Detect
    from hullwatch.agent.secrets.canaries import Canaries
    from hullwatch.decide.deciding import Decider
    from hullwatch.decide.following import Following
    from hullwatch.gatekeeper import Gatekeeper, Requester

__all__ = ["register"]

DEFAULT_LISTEN = "127.0.0.1:7811"
_COMMAND = "hullwatch.mcp.command"

State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar="HULLWATCH_MCP_STATE",
        help="Where pins are kept: /var/lib/hullwatch/mcp for root, else"
        " ~/.local/state/hullwatch/mcp.",
    ),
]
Server = Annotated[str, typer.Argument(metavar="SERVER", help="A server, as `pins list` names it.")]
Tool = Annotated[str, typer.Argument(metavar="TOOL", help="A tool's name.")]


class _Group(TyperGroup):
    """What follows `--` is the server's command line, and no command of ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        before, dashes, after = args, [], []
        if "--" in args:
            at = args.index("--")
            before, dashes, after = args[:at], args[at : at + 1], args[at + 1 :]
        if "pins" in before:
            return list(super().parse_args(ctx, args))
        if dashes:
            ctx.meta[_COMMAND] = after
        return list(super().parse_args(ctx, before))


def register(app: typer.Typer) -> None:
    mcp = typer.Typer(
        cls=_Group,
        invoke_without_command=True,
        rich_markup_mode=None,
        help="Stand before an MCP server: `hullwatch mcp -- COMMAND...` or --upstream URL. Every"
        " tool call is told to the agent before the server sees it; nothing that passes is"
        " changed.",
    )
    mcp.callback()(run)
    pins = typer.Typer(
        help="Tool definitions that are trusted, and those that wait.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    pins.command("list")(list_)
    pins.command("show")(show)
    pins.command("accept")(accept)
    pins.command("forget")(forget)
    mcp.add_typer(pins, name="pins")
    app.add_typer(mcp, name="mcp")


@asks
def run(
    ctx: typer.Context,
    upstream: Annotated[
        str, typer.Option("--upstream", metavar="URL", help="A server over HTTP, with its path.")
    ] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen for --upstream.")
    ] = DEFAULT_LISTEN,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A host name by which clients may call it, beside localhost; may be repeated.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Certificates to verify an https server with."),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="The server's name here. Default: from COMMAND or URL."
        ),
    ] = "",
    hold: Annotated[
        str,
        typer.Option(
            "--hold",
            metavar="WHAT",
            help="changed: calls of a tool whose definition is not the trusted one are answered"
            " with an error. none: they are only told.",
        ),
    ] = "none",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="PATH|applied",
            help="Ask these policies (a .cedar file or a folder of them; may be repeated) before"
            " each call: allow, block, or wait for a person. `applied`: the set that `hullwatch"
            " policy apply` put into force, and every change of it.",
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    log: LogFolder = None,
    head: HeadFile = None,
    told: Asking = NOBODY,
    state: State = None,
) -> None:
    """Run the gateway until the server or the client ends. Exit code: the server's."""
    if ctx.invoked_subcommand is not None:
        return
    command: list[str] = ctx.meta.get(_COMMAND, [])
    if bool(command) == bool(upstream):
        raise CommandError(
            "mcp: give a server, as in `hullwatch mcp -- npx -y SERVER`, or --upstream URL",
            ExitCode.USAGE,
        )
    if hold not in ("none", "changed"):
        raise CommandError(f"--hold {hold}: is none or changed", ExitCode.USAGE)
    told = told.checked(bool(policy))
    decider, following = asked_set(policy, store) if policy else (None, None)
    if upstream:
        hosts = frozenset(one.lower() for one in allow_host or ())
        made = _Made(hold, state, decider, following, log, head, told)
        _proxy(upstream, listen, hosts, ca, name, made)
        return
    from hullwatch.agent.mcp import identity, stdio
    from hullwatch.gatekeeper import Requester

    made = _Made(hold, state, decider, following, log, head, told)

    async def serve() -> int:
        named = name or identity.of_command(command)
        link = await _link()
        async with made.observer(named, link, "pipe", Requester.of_client) as observer:
            if link is None:
                return await stdio.serve(stdio.start(command), observer)
            # What is started in between is the server; the gateway is not.
            await link.serve(named)
            child = stdio.start(command)
            await link.served()
            try:
                return await stdio.serve(child, observer)
            finally:
                await link.close()

    try:
        raise typer.Exit(asyncio.run(serve()))
    except stdio.StartError as error:
        say(str(error))
        raise typer.Exit(error.code) from None


def _proxy(
    url: str,
    listen: str,
    allowed: frozenset[str],
    ca: Path | None,
    name: str,
    made: _Made,
) -> None:
    from hullwatch.agent.mcp import identity
    from hullwatch.agent.mcp.proxy import Proxy
    from hullwatch.agent.mcp.upstream import Upstream, UrlError
    from hullwatch.gatekeeper import Requester

    host, port = address("--listen", listen)
    try:
        upstream = Upstream(url, ca)
    except UrlError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None

    async def serve() -> None:
        named = name or identity.of_url(url)
        link = await _link()
        if link is not None:
            # A server on this machine is found by its port; of one elsewhere we see our connection.
            await link.serve(named, upstream.port if _is_loopback(upstream.host) else 0)
            if _is_loopback(upstream.host):
                await link.served()
        async with made.observer(named, link, "tcp", Requester.over_network) as observer:
            proxy = Proxy(observer, upstream, allowed)
            try:
                server = await proxy.listen(host, port)
            except OSError as error:
                raise CommandError(f"--listen {listen}: {error.strerror or error}") from None
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            shown, at = server.sockets[0].getsockname()[:2]
            shown = f"[{shown}]" if ":" in shown else shown
            say(f"listening on http://{shown}:{at}{upstream.path} for {identity.of_url(url)}")
            if not _is_loopback(host):
                say(
                    f"{host} can be reached from other machines, without TLS and without a password"
                )
            await stop.wait()
            server.close()
            await proxy.close()
        if link is not None:
            await link.close()

    asyncio.run(serve())


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- what the gateway is made of ----------------------------------------------------------


class _Made(NamedTuple):
    """What the command line said of it."""

    hold: str
    state: Path | None
    decider: Decider | None
    following: Following | None
    log: Path | None
    head: Path | None
    asking: Asking

    @contextlib.asynccontextmanager
    async def observer(
        self, server: str, link: Any, transport: str, requester: Callable[[], Requester]
    ) -> AsyncIterator[Observer]:
        from hullwatch.agent.mcp.observer import Observer
        from hullwatch.agent.mcp.pins import PinError, Pins
        from hullwatch.agent.mcp.state import directory, hasher
        from hullwatch.agent.report import Nobody

        folder = self.state or directory()
        reporter = link or Nobody()
        pins, hashed, clean = None, None, None
        try:
            pins = Pins(folder / "pins.db")
            hashed = hasher(folder)
            clean = _cleaner(folder)
        except (PinError, OSError) as error:
            if self.decider is not None or (self.hold != "none" and pins is None):
                option = "--policy" if self.decider is not None else "--hold"
                raise CommandError(f"{option} needs pins: {error}", ExitCode.STORE) from None
            say(f"tool definitions or hashes are not kept: {error}")
        async with contextlib.AsyncExitStack() as stack:
            gate = None
            if self.decider is not None:
                gate = await stack.enter_async_context(
                    _gate(self, self.decider, requester(), reporter)
                )
            yield Observer(
                server,
                reporter,
                pins=pins,
                hold=self.hold != "none",
                gate=gate,
                hasher=hashed,
                detect=_detect(),
                clean=clean,
                transport=transport,
                canaries=_canaries(),
            )


@contextlib.asynccontextmanager
async def _gate(
    made: _Made, decider: Decider, requester: Requester, reporter: Any
) -> AsyncIterator[Gatekeeper]:
    """With its log and the desk where people answer."""
    from hullwatch.cli.decisions import open_log
    from hullwatch.gatekeeper import Gatekeeper

    with open_log(made.log, made.head, write=True) as log:
        keeper = Gatekeeper(decider, log, requester, reporter, following=made.following, tell=say)
        async with at_desk(keeper), asking(made.asking, keeper.approvals):
            yield keeper


def _cleaner(folder: Path) -> Callable[[bytes, int], str] | None:
    """For what an agent asks to keep; without a key that is nothing."""
    from hullwatch.agent.content import clean
    from hullwatch.agent.secrets import Key, KeyUnusable
    from hullwatch.agent.wire.said import MOST

    try:
        key = Key.load(folder / "hash.key")
    except KeyUnusable as error:
        say(f"content is not kept: {error}")
        return None
    return lambda raw, limit: clean(raw[:MOST], key, limit, whole=len(raw) <= MOST)[0]


async def _link() -> Any:
    """The way to the agent, a hullwatch.agent.link.Link; without one None, and a word about it."""
    try:
        return await importlib.import_module("hullwatch.agent.link").connect()
    except ModuleNotFoundError as error:
        if error.name != "hullwatch.agent.link":
            raise
        why = "this version has no link to it"
    except OSError as error:
        why = error.strerror or str(error)
    say(f"no agent ({why}): calls and signals are told to nobody; pins and --hold work")
    return None


def _canaries() -> Canaries:
    """Root's to read: another user's gateway leaves them to the agent's tap."""
    from hullwatch.agent.planted import FOLDER, FOLDER_BY
    from hullwatch.agent.secrets.canaries import Canaries

    folder = Path(os.environ.get(FOLDER_BY) or FOLDER)
    found, problems = Canaries.load(folder.glob("*.yaml"))
    for problem in problems:
        say(f"a canary is not recognised here: {problem}")
    return found


def _detect() -> Detect | None:
    try:
        found: Detect = importlib.import_module("hullwatch.agent.secrets").detect
    except ModuleNotFoundError:
        return None
    return found


# --- pins ---------------------------------------------------------------------------------


def list_(
    server: Annotated[
        str, typer.Argument(metavar="[SERVER]", help="Only of this server.", show_default=False)
    ] = "",
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only tools that changed or are new.")
    ] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """List tool definitions: pinned, changed, added, removed."""
    with _pins(state) as pins:
        found = pins.all(server)
    rows = [_row(pin) for pin in found if not waiting or pin.state in ("changed", "added")]
    if json:
        for row in rows:
            print_json(row)
    elif rows:
        print_table(["server", "tool", "state", "changed", "digest"], rows)
        if any(row["state"] in ("changed", "added") for row in rows):
            say("`hullwatch mcp pins show SERVER TOOL` has what changed, `accept` trusts it")
    else:
        say("no pins; a server's tools are pinned when it lists them through the gateway")


def show(server: Server, tool: Tool, state: State = None, json: Json = False) -> None:
    """Show a definition, and how what is offered now differs. Exit code 1: no such tool."""
    with _pins(state) as pins:
        pin = _find(pins, server, tool)
    if json:
        offered = {"definition": pin.definition, "offered": pin.offered}
        print_json(_row(pin) | {key: _parsed(value) for key, value in offered.items()})
        return
    for name, value in _row(pin).items():
        if value:
            print(f"{name.replace('_', ' '):<16}{safe(value)}")
    import difflib

    before, after = _lines(pin.definition), _lines(pin.offered or pin.definition)
    if pin.offered:
        for line in difflib.unified_diff(before, after, "trusted", "offered", lineterm="", n=2):
            print(safe(line))
    else:
        print("\n".join(map(safe, before)))


def accept(
    server: Server,
    tool: Annotated[
        str, typer.Argument(metavar="[TOOL]", help="A tool's name.", show_default=False)
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="All tools of it that wait.")] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Trust what a server offers now. Running gateways follow at once. Exit code 1: none waits."""
    if bool(tool) == all_:
        raise CommandError("pins accept: give a TOOL, or --all", ExitCode.USAGE)
    with _pins(state) as pins:
        name = _find(pins, server, tool).tool if tool else ""
        done = pins.accept(server, name, time.time_ns())
    if not done:
        raise CommandError(f"pins accept: nothing of {server} waits for that")
    if json:
        print_json({"server": server, "accepted": done})
    else:
        print(f"accepted: {', '.join(map(safe, done))}")


def forget(
    server: Server,
    tool: Annotated[
        str, typer.Argument(metavar="[TOOL]", help="Only this tool.", show_default=False)
    ] = "",
    state: State = None,
    json: Json = False,
) -> None:
    """Drop a server's pins: what it lists next is trusted anew. A TOOL that is dropped alone is
    new when it is listed again. Exit code 1: no such one."""
    with _pins(state) as pins:
        name = _find(pins, server, tool).tool if tool else ""
        count = pins.forget(server, name)
    if not count:
        raise CommandError(f"pins forget: no server {server}; `hullwatch mcp pins list` has them")
    if json:
        print_json({"server": server, "tool": name})
    else:
        print(f"forgotten: {safe(server)} {safe(name)}".rstrip())


@contextlib.contextmanager
def _pins(state: Path | None) -> Iterator[Pins]:
    from hullwatch.agent.mcp.pins import PinError, Pins
    from hullwatch.agent.mcp.state import directory

    try:
        pins = Pins((state or directory()) / "pins.db")
        try:
            yield pins
        finally:
            pins.close()
    except PinError as error:
        raise CommandError(str(error), ExitCode.STORE) from None


def _find(pins: Pins, server: str, tool: str) -> Pin:
    """Names may be given as errors show them, with what is not ASCII escaped."""
    for pin in pins.all(server):
        escaped = pin.tool.encode("unicode_escape").decode("ascii")
        if pin.server == server and tool in (pin.tool, escaped):
            return pin
    raise CommandError(f"no tool {tool} of {server}; `hullwatch mcp pins list` has them")


def _row(pin: Pin) -> dict[str, Any]:
    return {
        "server": pin.server,
        "tool": pin.tool,
        "state": pin.state,
        "first_seen": iso(pin.first_seen),
        "changed": iso(pin.changed),
        "digest": pin.digest[:16],
        "offered_digest": pin.offered_digest[:16],
    }


def _parsed(text: str) -> Any:
    try:
        return json_.loads(text) if text else None
    except ValueError:
        return text  # cut, as it was too long


def _lines(text: str) -> list[str]:
    parsed = _parsed(text)
    if parsed is None or isinstance(parsed, str):
        return [text] if text else []
    # Escaped: a changed character that nobody sees is shown as what it is.
    return json_.dumps(parsed, indent=2, sort_keys=True).splitlines()
