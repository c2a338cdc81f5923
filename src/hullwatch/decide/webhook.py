"""A held action, told to an address elsewhere as one signed POST: what waits, why, until when, and
the link to answer it. Values of arguments are not in it.

    Hullwatch-Timestamp: 1767225600
    Hullwatch-Signature: v1=HEX      HMAC-SHA256 of the secret over `TIMESTAMP.BODY`

Whoever gets it should refuse an old timestamp and a signature that does not fit. Tried again a few
times; what was given up is counted and said.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import traceback
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import h11
import msgspec

from hullwatch.agent.mcp.upstream import Unreachable, Upstream, UrlError
from hullwatch.decide.approvals import Waiting
from hullwatch.decide.elsewhere import WebhookError, check

__all__ = ["Webhook", "signature"]

TRIES = (0.0, 1.0, 4.0, 16.0)  # s before each
ATTEMPT = 10.0  # s that one may take
AT_ONCE = 8
_ANSWER_MAX = 64 << 10  # bytes that are read of an answer
_SAID = 60.0  # s between two words about what was given up
_AGAIN = (408, 425, 429)  # of the client's errors those that pass


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    mac = hmac.new(secret, timestamp.encode() + b"." + body, sha256)
    return f"v1={mac.hexdigest()}"


class Webhook:
    """url: as `check` wants it (WebhookError). secret: empty, not signed. counts: sent, retried and
    failed. problem: why the last was given up; ''."""

    def __init__(
        self, url: str, secret: bytes = b"", tell: Callable[[str], None] = lambda said: None
    ) -> None:
        check(url)
        try:
            self._to = Upstream(url)
        except UrlError as error:  # TLS does not work here
            raise WebhookError(str(error)) from None
        query = urlsplit(url).query
        self._target = self._to.path + (f"?{query}" if query else "")
        self._secret = secret
        self._tell = tell
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._said = 0.0
        self.problem = ""
        self.counts: Counter[str] = Counter()

    def held(self, waiting: Waiting, link: str) -> None:
        """Returns at once. link: where it is answered, or ''."""
        task = asyncio.create_task(self._deliver(waiting, _body(waiting, link)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._to.close()
        if self.counts["failed"]:
            self._tell(f"webhook: {self.counts['failed']} held actions could not be told")

    async def _deliver(self, waiting: Waiting, body: bytes) -> None:
        why = ""
        for number, pause in enumerate(TRIES):
            await asyncio.sleep(pause)
            if waiting.ended:
                return
            self.counts["retried"] += number > 0
            async with self._room:
                try:
                    async with asyncio.timeout(ATTEMPT):
                        status = await self._post(body)
                except TimeoutError:
                    why = f"no answer within {ATTEMPT:g} s"
                    continue
                except Unreachable as error:
                    why = str(error)
                    continue
                except Exception as error:  # its text may hold the address
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    why = f"{type(error).__name__} ({Path(at.filename).name}:{at.lineno})"
                    continue
            if 200 <= status < 300:
                self.counts["sent"] += 1
                return
            why = f"HTTP {status}"
            if status < 500 and status not in _AGAIN:
                break
        self.problem = why
        self.counts["failed"] += 1
        now = time.monotonic()
        if not self._said or now - self._said >= _SAID:
            self._said = now
            failed = self.counts["failed"]
            self._tell(f"webhook: {why}; {waiting.id} waits untold, {failed} by now")

    async def _post(self, body: bytes) -> int:
        """The answer's status; redirects are not followed. Unreachable."""
        timestamp = str(int(time.time()))
        headers = [
            (b"Host", self._to.authority),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
            (b"User-Agent", b"hullwatch"),
            (b"Hullwatch-Timestamp", timestamp.encode()),
        ]
        if self._secret:
            signed = signature(self._secret, timestamp, body)
            headers.append((b"Hullwatch-Signature", signed.encode()))
        link = await self._to.acquire()
        try:
            request = h11.Request(method=b"POST", target=self._target.encode(), headers=headers)
            await link.send(request, h11.Data(data=body), h11.EndOfMessage())
            while isinstance(event := await link.receive(), h11.InformationalResponse):
                pass
            status = int(event.status_code)
            size = 0
            while not isinstance(event := await link.receive(), h11.EndOfMessage):
                size += len(event.data)
                if size > _ANSWER_MAX:
                    break
        except BaseException:
            link.close()
            raise
        self._to.release(link)
        return status


def _body(waiting: Waiting, link: str) -> bytes:
    entry = waiting.entry
    said = {
        "event": "held",
        "id": entry.held,
        "time": entry.time,
        "deadline": entry.deadline,
        "otherwise": "goes on" if waiting.terms.fail == "open" else "is refused",
        "principal": entry.principal,
        "action": entry.action,
        "resource": entry.resource,
        "arguments": entry.arguments,
        "policies": entry.policies,
        "reason": entry.reason,
        "version": entry.version,
        "tool_call": entry.tool_call,
        "people": waiting.terms.people,
        "link": link,
        "command": f"hullwatch approvals show {entry.held}",
    }
    return msgspec.json.encode(said)
