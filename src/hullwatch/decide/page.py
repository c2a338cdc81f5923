"""Where a link is answered: a small page over HTTP/1.1. GET shows what waits and changes nothing,
as whoever scans mail follows links too; POST answers, with a reason. All that it shows is escaped,
and the page may load nothing, run nothing and stand in no frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import parse_qs

import h11

from hullwatch.decide.approvals import MAX_WHY, Refused, Waiting
from hullwatch.decide.links import PATH, Links, Over
from hullwatch.decide.log import LogError

__all__ = ["Page"]

_HEAD_MAX = 16 << 10  # bytes
_BODY_MAX = 8 << 10
_PATIENCE = 10.0  # s for a whole exchange
_CLIENTS_MAX = 32
_HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)


class Page:
    """Of the links of one process."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def listen(self, listening: socket.socket) -> None:
        """At a socket that listens; it is the page's from then on."""
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=_HEAD_MAX)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _CLIENTS_MAX:
                async with asyncio.timeout(_PATIENCE):
                    await self._exchange(reader, writer)
        except (OSError, TimeoutError, h11.LocalProtocolError):
            pass
        finally:
            self._clients -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conn = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX)
        request: Any = None
        body = b""
        try:
            while not isinstance(event := conn.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    conn.receive_data(await reader.read(_HEAD_MAX))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data) and len(body) <= _BODY_MAX:
                    body += bytes(event.data)
                elif isinstance(event, h11.ConnectionClosed):
                    return
                if len(body) > _BODY_MAX:
                    break
            status, text = self.answer(request.method, request.target, body)
        except h11.RemoteProtocolError as error:
            status, text = error.error_status_hint, _html("Not understood")
        data = text.encode("utf-8", "replace")
        if conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*_HEADERS, ("Content-Length", str(len(data)))]
            response = h11.Response(status_code=status, headers=headers)
            head = request is not None and request.method == b"HEAD"
            sent = [response, *([] if head else [h11.Data(data=data)]), h11.EndOfMessage()]
            writer.write(b"".join(conn.send(one) or b"" for one in sent))
            await writer.drain()

    def answer(self, method: bytes, target: bytes, body: bytes) -> tuple[int, str]:
        """(status, HTML) of a request."""
        path = target.partition(b"?")[0].decode("ascii", "replace")
        _, found, token = path.rpartition(PATH)  # whatever a proxy before us has put before it
        if not found or len(body) > _BODY_MAX:
            return (413, _html("Too large")) if found else (404, _html("No such link"))
        if method not in (b"GET", b"HEAD", b"POST"):
            return 405, _html("GET or POST")
        try:
            if method != b"POST":
                return 200, _question(self._links.waiting(token))
            given = _form(body)
            wish, why = given.get("answer", [""])[-1], given.get("why", [""])[-1]
            if wish not in ("approve", "deny"):
                return 400, _question(self._links.waiting(token), "Say approve or deny.")
            done = self._links.answer(token, wish == "approve", why)
        except Over as error:
            return 410, _html("It is over", [str(error)])
        except Refused as error:
            with contextlib.suppress(Refused, Over):
                return 400, _question(self._links.waiting(token), f"Not taken: {error}.")
            return 404, _html("No such link")
        except LogError as error:
            return 503, _html("Not taken", [f"It cannot be logged, so it does not count: {error}"])
        more = ["Somebody else has to approve it, too."] if done == "agreed" else []
        return 200, _html(done.capitalize(), more)


def _form(body: bytes) -> dict[str, list[str]]:
    """Empty for what is none."""
    try:
        return parse_qs(body.decode(), max_num_fields=8)
    except ValueError:
        return {}


def _question(waiting: Waiting, problem: str = "") -> str:
    entry, context = waiting.entry, waiting.context
    until = datetime.fromtimestamp(entry.deadline / 1e9, UTC)
    otherwise = "goes on" if waiting.terms.fail == "open" else "is refused"
    rows = {
        "who": entry.principal,
        "identity": entry.identity,
        "wants": f"{entry.action} {entry.resource}",
        "arguments": context.get("said", ""),
        "definition": context.get("definition", ""),
        "why it waits": entry.reason,
        "policies": ", ".join(entry.policies),
        "until": f"{until:%Y-%m-%d %H:%M:%S} UTC, then it {otherwise}",
        "people": f"{waiting.terms.people}, {len(waiting.agreed)} so far",
        "id": entry.held,
    }
    table = "".join(
        f"<tr><th>{escape(name)}</th><td><pre>{escape(_plain(value))}</pre></td></tr>"
        for name, value in rows.items()
        if value
    )
    said = f"<p><strong>{escape(_plain(problem))}</strong></p>" if problem else ""
    form = (
        '<form method="post"><p><label>Why: <input name="why" required'
        f' maxlength="{MAX_WHY}" size="60"></label></p><p>'
        '<button name="answer" value="deny">Deny</button> '
        '<button name="answer" value="approve">Approve exactly this, once</button></p></form>'
    )
    return _html("An action waits for a person", body=f"{said}<table>{table}</table>{form}")


def _html(title: str, words: Sequence[str] = (), body: str = "") -> str:
    said = "".join(f"<p>{escape(_plain(one))}</p>" for one in words)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Hullwatch: {escape(title)}</title></head>"
        f"<body><h1>{escape(title)}</h1>{said}{body}</body></html>\n"
    )


def _plain(value: object) -> str:
    """Characters that are not seen, or turn others around, as escapes."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in str(value)
    )
