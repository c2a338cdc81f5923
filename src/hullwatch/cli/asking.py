"""Where people answer what waits: the desk, and for people elsewhere a webhook and the page of its
links."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit

import typer

from hullwatch.cli.errors import CommandError, ExitCode
from hullwatch.cli.show import safe, say

if TYPE_CHECKING:
    from hullwatch.context.call import Signal
    from hullwatch.decide.approvals import Approvals
    from hullwatch.decide.elsewhere import Elsewhere
    from hullwatch.gatekeeper import Gatekeeper
    from hullwatch.holding import Holder

__all__ = ["NOBODY", "Asking", "address", "asking", "asks", "at_desk", "tell_flood"]

_MIN_SECRET = 16  # bytes
_MAX_SECRET = 4096


class Asking(NamedTuple):
    """What the command line said of it: the options of a command that `asks`. hook: empty, nobody
    is told."""

    hook: Annotated[
        str,
        typer.Option(
            "--approval-webhook",
            metavar="URL|file:PATH|env:NAME",
            help="Tell this address of each held action, with a link to answer it: a POST of JSON.",
        ),
    ] = ""
    secret: Annotated[
        str,
        typer.Option(
            "--approval-webhook-secret",
            metavar="file:PATH|env:NAME",
            help="Sign what is told with it (HMAC-SHA256). A variable is taken out of the"
            " environment before anything is started.",
        ),
    ] = ""
    listen: Annotated[
        str,
        typer.Option(
            "--approval-listen",
            metavar="HOST:PORT",
            help="Where the page of the links listens; port 0: any that is free.",
        ),
    ] = "127.0.0.1:0"
    url: Annotated[
        str,
        typer.Option(
            "--approval-url",
            metavar="URL",
            help="What links begin with, where a proxy with TLS stands before the page.",
        ),
    ] = ""
    name: Annotated[
        str,
        typer.Option(
            "--approval-link-as",
            metavar="NAME",
            help="Whoever has a link is `link:NAME`, to policies that name it in @approvers.",
        ),
    ] = "webhook"

    def checked(self, policy: bool, needs: str = "--policy") -> Asking:
        """With the address and the secret read. policy: whether something may be held; needs: what
        that takes. CommandError."""
        address("--approval-listen", self.listen)
        if not self.hook:
            if self != NOBODY:
                raise CommandError("--approval-...: needs --approval-webhook", ExitCode.USAGE)
            return self
        if not policy:
            raise CommandError(f"--approval-webhook: needs {needs}", ExitCode.USAGE)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise CommandError("--approval-link-as: letters, digits and ._-", ExitCode.USAGE)
        parts = urlsplit(self.url)
        if self.url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise CommandError("--approval-url: an http or https URL", ExitCode.USAGE)
        hook = self.hook
        if hook.startswith(("file:", "env:")):
            hook = _read("--approval-webhook", hook, 1)
        secret = self.secret
        if secret:
            secret = _read("--approval-webhook-secret", secret, _MIN_SECRET)
        return self._replace(hook=hook, secret=secret)

    def opened(self) -> Elsewhere | None:
        """Of what was checked: from now on it listens, and says where. None: nobody is told.
        CommandError."""
        if not self.hook:
            return None
        from hullwatch.decide.elsewhere import Elsewhere, WebhookError, check, is_here, listen
        from hullwatch.decide.links import PATH

        host, port = address("--approval-listen", self.listen)
        if not self.url and not is_here(host):
            raise CommandError(
                f"--approval-listen {self.listen}: there is no TLS on it, and who reads a link may"
                " answer; put a proxy before it and give --approval-url",
                ExitCode.USAGE,
            )
        try:
            check(self.hook)
            listening = listen(host, port)
        except WebhookError as error:
            raise CommandError(f"--approval-webhook: {error}", ExitCode.USAGE) from None
        except OSError as error:
            raise CommandError(f"--approval-listen {self.listen}: {error.strerror}") from None
        shown = f"[{host}]" if ":" in host else host
        base = (self.url or f"http://{shown}:{listening.getsockname()[1]}").rstrip("/")
        say(f"approvals by link: {base}{PATH}..., as link:{self.name}, where a policy names it")
        if not self.secret:
            say("the webhook is told without a signature; --approval-webhook-secret gives it one")
        return Elsewhere(
            hook=self.hook,
            secret=self.secret,
            base=base,
            name=self.name,
            listening=listening.detach(),
        )


NOBODY = Asking()


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `told`, an Asking, stands for all of its options."""
    signature = inspect.signature(command, eval_str=True)
    told, hints = signature.parameters["told"], get_type_hints(Asking, include_extras=True)
    options = {
        f"approval_{one}": told.replace(
            name=f"approval_{one}", default=Asking._field_defaults[one], annotation=hints[one]
        )
        for one in Asking._fields
    }

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(told=Asking(*(given.pop(one) for one in options)), **given)

    parameters = signature.parameters.values()
    shown = chain(*(options.values() if one is told else (one,) for one in parameters))
    run.__signature__ = signature.replace(parameters=[*shown])  # type: ignore[attr-defined]
    return run


def address(option: str, listen: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 address in brackets. CommandError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CommandError(f"{option} {listen}: as in 127.0.0.1:7811", ExitCode.USAGE)
    return host, int(port)


def _read(option: str, where: str, least: int) -> str:
    """What a file or a variable holds; it is in no message."""
    kind, _, place = where.partition(":")
    try:
        if kind == "env":
            found = os.environ.pop(place)  # the server is not to have it
        elif kind == "file":
            with Path(place).open("rb") as opened:
                if os.fstat(opened.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    said = f"{option}: {place}: others may read it; chmod 600 {place}"
                    raise CommandError(said, ExitCode.USAGE)
                found = opened.read(_MAX_SECRET + 1).decode()
        else:
            raise CommandError(f"{option}: as file:PATH or env:NAME", ExitCode.USAGE)
    except KeyError:
        raise CommandError(f"{option}: there is no variable {place}", ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"{option}: {place}: is no text", ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(f"{option}: {place}: {error.strerror}", ExitCode.USAGE) from None
    found = found.strip()
    if not least <= len(found.encode()) <= _MAX_SECRET:
        said = f"{option}: {where}: {least} to {_MAX_SECRET} bytes are needed"
        raise CommandError(said, ExitCode.USAGE)
    return found


@contextlib.asynccontextmanager
async def at_desk(keeper: Gatekeeper | Holder) -> AsyncIterator[None]:
    """While it runs, the keeper does, and people can answer what it holds. LogError."""
    from hullwatch.decide.desk import Desk

    await keeper.start()
    desk = Desk(keeper.approvals, keeper.story)
    try:
        await desk.open()
    except OSError as error:
        why = error.strerror or error
        say(f"{desk.path}: {why}; nobody can approve here, set HULLWATCH_APPROVALS")
    try:
        yield
    finally:
        desk.close()
        keeper.close()
        if keeper.problem:
            say(f"decisions: {keeper.problem}")


def tell_flood(signal: Signal) -> None:
    """Here, and the agent where one runs. Within a loop."""
    from hullwatch.agent.link import tell

    say(f"approvals: {safe(signal.subject)}: {signal.detail}")
    task = asyncio.get_running_loop().create_task(tell(signal))
    _telling.add(task)
    task.add_done_callback(_telling.discard)


_telling: set[asyncio.Task[bool]] = set()


@contextlib.asynccontextmanager
async def asking(said: Asking, approvals: Approvals) -> AsyncIterator[None]:
    """While it runs, what waits is told. CommandError."""
    to = said.opened()
    if to is None:
        yield
        return
    from hullwatch.decide.elsewhere import telling

    async with telling(to, approvals, say):
        yield
