"""Who elsewhere is told of what waits, and how they answer: a value, made where a command line is
read and handed to whoever holds the actions, which may be another process."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from hullwatch.decide.links import PATH, Links

if TYPE_CHECKING:
    from hullwatch.decide.approvals import Approvals, Waiting
    from hullwatch.decide.webhook import Webhook

__all__ = ["Elsewhere", "WebhookError", "check", "is_here", "listen", "telling"]


class WebhookError(Exception):
    """An address that cannot be used: why, mend."""


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """hook: the webhook's address, which may be a secret as much as `secret` is ('': not signed).
    base: what links begin with. name: what they speak as. listening: descriptor of the socket at
    which they are answered."""

    hook: str
    secret: str = ""
    base: str
    name: str
    listening: int

    def __repr__(self) -> str:
        return f"Elsewhere(base={self.base!r}, name={self.name!r})"


def check(hook: str) -> None:
    """A webhook's address: https, or http to this machine. WebhookError. Without what telling it
    takes, as the agent has another process do that."""
    try:
        parts = urlsplit(hook)
        name = (parts.hostname or "").encode("idna")  # as a resolver is asked for it
        named = parts.scheme in ("http", "https") and name and parts.port != 0
    except ValueError:
        named = False
    plain = hook.isascii() and hook.isprintable() and " " not in hook
    if not named or not plain or parts.username or parts.password:
        # The address may be a secret of its own, so it is not said.
        said = "the webhook's address is no http or https URL without user and password"
        raise WebhookError(said)
    if parts.scheme != "https" and not is_here(parts.hostname or ""):
        raise WebhookError("the webhook's address: https, as who reads the link may answer")


def is_here(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """At the first address of a name. OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family)


@contextlib.asynccontextmanager
async def telling(
    to: Elsewhere, approvals: Approvals, tell: Callable[[str], None] = lambda said: None
) -> AsyncIterator[Webhook]:
    """While it runs, what begins to wait is told. The socket is closed with it. WebhookError."""
    from hullwatch.decide.page import Page
    from hullwatch.decide.webhook import Webhook

    links = Links(approvals, to.name)
    page = Page(links)
    webhook = Webhook(to.hook, to.secret.encode(), tell)
    await page.listen(socket.socket(fileno=to.listening))

    def held(waiting: Waiting) -> None:
        link = f"{to.base}{PATH}{links.token(waiting)}" if links.counts(waiting) else ""
        webhook.held(waiting, link)

    approvals.on_held = held
    try:
        yield webhook
    finally:
        page.close()
        await webhook.close()
