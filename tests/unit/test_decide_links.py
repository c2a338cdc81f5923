"""Answers by link: which count, what the page shows, and what is told to a webhook."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h11
import pytest

from hullwatch.decide import webhook as module
from hullwatch.decide.approvals import Approvals, Person, Refused, Terms, Waiting
from hullwatch.decide.elsewhere import WebhookError, check, listen
from hullwatch.decide.links import PATH, Links, Over
from hullwatch.decide.log import Entry, Log
from hullwatch.decide.page import Page
from hullwatch.decide.question import Effect
from hullwatch.decide.webhook import Webhook, signature

BY_LINK = Terms(approvers=(("link:oncall", "uid:1001"),))
ALICE = Person(1001, 7, 1001)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.now = 10**18
        self.log = Log(folder)
        self.approvals = Approvals(self.log, client=1, clock=lambda: self.now)
        self.links = Links(self.approvals, "oncall", lambda: self.now)
        self.page = Page(self.links)

    def hold(self, terms: Terms = BY_LINK, said: str = "", **more: Any) -> Waiting:
        entry = Entry(
            effect=Effect.CHALLENGE,
            **{"principal": "Agent:a", "resource": "Tool:s/t", "question": "q1", **more},
        )
        return self.approvals.hold(entry, terms, lambda: None, {"said": said})

    def get(self, token: str, method: bytes = b"GET") -> tuple[int, str]:
        return self.page.answer(method, f"{PATH}{token}".encode(), b"")

    def post(self, token: str, answer: str = "approve", why: str = "because") -> tuple[int, str]:
        body = f"answer={answer}&why={quote(why)}".encode()
        return self.page.answer(b"POST", f"/behind/a/proxy{PATH}{token}?x=y".encode(), body)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    assert made.log.verify().ok
    made.log.close()


# --- what a link is -----------------------------------------------------------------------


def test_a_link_answers_once_and_is_logged_as_what_it_is(scene: Scene):
    waiting = scene.hold()
    token = scene.links.token(waiting)
    assert scene.links.answer(token, True, "fine") == "approved"
    entry = scene.log.entries()[-1]
    assert (entry.kind, entry.by, entry.why, entry.scope) == (
        "approved", "link:oncall", "fine", "once",
    )  # fmt: skip
    with pytest.raises(Over):
        scene.links.answer(token, False, "no")


@pytest.mark.parametrize(
    ("approvers", "counts"),
    [
        ((), False),
        ((("root", "alice"),), False),
        ((("link:other",),), False),
        ((("link:oncall",),), True),
        ((("link:oncall",), ("alice",)), False),
        ((("link:oncall",), ("bob", "link:oncall")), True),
        ((("link:",),), False),
        ((("uid:-1",),), False),
    ],
)
def test_it_counts_only_where_every_policy_names_it(scene: Scene, approvers: Any, counts: bool):
    waiting = scene.hold(Terms(approvers=approvers))
    assert scene.links.counts(waiting) is counts
    if not counts:
        with pytest.raises(Refused, match="link:oncall may not"):
            scene.links.answer(scene.links.token(waiting), True, "x")
        assert waiting.id in scene.approvals.waiting


def test_nobody_else_is_a_link():
    assert not Terms(approvers=(("link:oncall",),)).may(Person(0))
    assert not Terms(approvers=(("link:",),)).may(Person(0))


def test_one_link_is_not_two_persons(scene: Scene):
    waiting = scene.hold(Terms(approvers=BY_LINK.approvers, people=2))
    token = scene.links.token(waiting)
    assert scene.links.answer(token, True, "one") == "agreed"
    with pytest.raises(Over):
        scene.links.answer(token, True, "two")
    with pytest.raises(Refused, match="another one has to"):
        scene.approvals.answer(waiting.id, Person.by_link("oncall"), True, "two")
    assert scene.approvals.answer(waiting.id, ALICE, True, "two") == "approved"
    assert scene.log.entries()[-1].by.startswith("link:oncall, ")


def test_forged_and_foreign_tokens(scene: Scene, tmp_path: Path):
    one, other = scene.hold(), scene.hold()
    token = scene.links.token(one)
    said, _, mac = token.rpartition(".")
    later = said.replace(str(one.entry.deadline), str(one.entry.deadline + 10**12))
    foreign = Links(scene.approvals, "oncall", lambda: scene.now)
    named = Links(scene.approvals, "else", lambda: scene.now)
    named._key = scene.links._key
    for bad in (
        "", ".", "...", said, f"{said}.", f"{later}.{mac}", f"{said.replace('q1', 'q2')}.{mac}",
        f"{said.replace(one.id, other.id)}.{mac}", token[:-1], token + "A", token + "=" * 300,
        "\N{CYRILLIC SMALL LETTER A}" + token[1:], foreign.token(one), named.token(one),
    ):  # fmt: skip
        with pytest.raises(Refused, match="no such link"):
            scene.links.answer(bad, True, "x")
    assert {one.id, other.id} == set(scene.approvals.waiting)


def test_a_link_is_over_when_its_action_is(scene: Scene):
    late, answered = scene.hold(), scene.hold()
    tokens = [scene.links.token(one) for one in (late, answered)]
    scene.approvals.answer(answered.id, ALICE, False, "no")
    scene.now = late.entry.deadline
    for token in tokens:
        with pytest.raises(Over):
            scene.links.waiting(token)


# --- the page -----------------------------------------------------------------------------


def test_looking_changes_nothing(scene: Scene):
    waiting = scene.hold(reason="<b>why</b>", said='{"a": "<script>x</script>\u202e"}')
    token = scene.links.token(waiting)
    for _ in range(3):
        status, text = scene.get(token)
        assert status == 200 and "Agent:a" in text and "<form" in text
    assert "<script" not in text and "<b>" not in text and "\\u202e" in text
    assert scene.get(token, b"HEAD")[0] == 200 and scene.get(token, b"PUT")[0] == 405
    assert not waiting.ended and len(scene.log.entries()) == 1


def test_the_page_answers(scene: Scene):
    for answer, said in (("approve", "Approved"), ("deny", "Denied")):
        waiting = scene.hold()
        token = scene.links.token(waiting)
        assert scene.post(token, answer)[0] == 200 and waiting.ended == said.lower()
        assert scene.post(token, answer)[0] == 410 and scene.get(token)[0] == 410
    assert [one.by for one in scene.log.entries() if one.by] == ["link:oncall"] * 2


def test_an_answer_that_is_not_taken_does_not_use_up_the_link(scene: Scene):
    token = scene.links.token(scene.hold())
    fields = b"&".join([b"answer=approve"] * 99)
    for odd in (b"", b"\xff", b"answer", fields):
        assert scene.page.answer(b"POST", f"{PATH}{token}".encode(), odd)[0] == 400
    for answer, why in (("approve", " "), ("approve", "x" * 501), ("maybe", "x"), ("", "x")):
        status, text = scene.post(token, answer, why)
        assert status == 400 and "<form" in text
    assert scene.post(token)[0] == 200


def test_what_the_page_does_not_know(scene: Scene):
    scene.hold()
    for target in (b"/", b"/favicon.ico", PATH.encode(), PATH.encode() + b"x.1.q.y", b"\xff"):
        for method in (b"GET", b"POST"):
            assert scene.page.answer(method, target, b"answer=approve&why=x")[0] == 404
    assert scene.page.answer(b"POST", f"{PATH}x".encode(), b"x" * 9000)[0] == 413
    assert len(scene.approvals.waiting) == 1


def test_an_answer_that_cannot_be_logged(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    from hullwatch.decide.log import LogError

    token = scene.links.token(scene.hold())

    def full(*entries: Any) -> Any:
        raise LogError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(scene.log, "append", full)
        status, text = scene.post(token)
        assert status == 503 and "disk full" in text
    assert scene.post(token)[0] == 200


async def talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read(1 << 20)
    writer.close()
    return answer


def test_the_page_over_http(scene: Scene):
    async def play() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        await scene.page.listen(listening)
        waiting = scene.hold()
        target = f"{PATH}{scene.links.token(waiting)}".encode()
        head = b" HTTP/1.1\r\nHost: x\r\n"
        shown = await talk(port, b"GET " + target + head + b"\r\n")
        assert shown.startswith(b"HTTP/1.1 200") and b"<form" in shown
        assert b"default-src 'none'" in shown and b"no-store" in shown and b"no-referrer" in shown
        bare = await talk(port, b"HEAD " + target + head + b"\r\n")
        assert bare.startswith(b"HTTP/1.1 200") and bare.endswith(b"\r\n\r\n")
        assert (await talk(port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 4")
        assert (await talk(port, b"GET /" + b"x" * 40_000 + head)).startswith(b"HTTP/1.1 4")
        large = b"POST " + target + head + b"Content-Length: 20000\r\n\r\n" + b"x" * 20_000
        assert (await talk(port, large)).startswith(b"HTTP/1.1 413")
        assert not waiting.ended
        body = b"why=ticket&answer=approve"
        sent = b"POST " + target + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert (await talk(port, sent)).startswith(b"HTTP/1.1 200")
        assert waiting.ended == "approved"
        scene.page.close()

    asyncio.run(asyncio.wait_for(play(), 30))


# --- the webhook --------------------------------------------------------------------------


class Hook:
    """Answers with the statuses that it was given, the last one on and on; 0: not at all."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[bytes, dict[bytes, bytes], bytes]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.strip().split(b"\r\n")
                headers = {
                    name.lower(): value for name, value in (one.split(b": ", 1) for one in lines)
                }
                body = await reader.readexactly(int(headers[b"content-length"]))
                self.got.append((first, headers, body))
                status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
                if not status:
                    break
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{self.port}/hook?key=1"
        finally:
            server.close()


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.01)


def over(*statuses: int) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    def made(test: Callable[..., Any]) -> Callable[..., None]:
        def run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setattr(module, "TRIES", (0.0, 0.01, 0.01))

            async def play() -> None:
                hook, said = Hook(*statuses), list[str]()
                async with hook.running() as url:
                    webhook = Webhook(url, b"secret of sixteen", said.append)
                    await test(scene, hook, webhook, said)
                    await webhook.close()

            asyncio.run(asyncio.wait_for(play(), 30))

        run.__name__ = test.__name__
        return run

    return made


@over(200)
async def test_what_is_told_and_how_it_is_signed(scene, hook, webhook, said):
    waiting = scene.hold(said='{"path": "/srv/private"}', arguments="hash")
    webhook.held(waiting, "http://h/answer/x")
    await until(lambda: webhook.counts["sent"])
    ((first, headers, body),) = hook.got
    assert first == b"POST /hook?key=1 HTTP/1.1"
    timestamp = headers[b"hullwatch-timestamp"].decode()
    signed = signature(b"secret of sixteen", timestamp, body).encode()
    assert headers[b"hullwatch-signature"] == signed and signed.startswith(b"v1=")
    told = json.loads(body)
    assert told["id"] == waiting.id and told["link"] == "http://h/answer/x"
    assert told["arguments"] == "hash" and "private" not in str(told) and not said


@over(503, 429, 200)
async def test_it_is_tried_again(scene, hook, webhook, said):
    webhook.held(scene.hold(), "")
    await until(lambda: webhook.counts["sent"])
    assert len(hook.got) == 3 and webhook.counts["retried"] == 2 and not said


@over(500)
async def test_what_is_given_up_is_counted_and_said_once_a_minute(scene, hook, webhook, said):
    for _ in range(3):
        webhook.held(scene.hold(), "")
    await until(lambda: webhook.counts["failed"] == 3)
    assert len(hook.got) == 9 and len(said) == 1 and "HTTP 500" in said[0]
    await webhook.close()
    assert said[-1] == "webhook: 3 held actions could not be told"


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (302, 1), (0, 3)])
def test_what_is_not_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, status: int, tries: int
):
    async def play(scene: Scene, hook: Hook, webhook: Webhook, said: list[str]) -> None:
        webhook.held(scene.hold(), "")
        await until(lambda: webhook.counts["failed"])
        assert len(hook.got) == tries

    over(status)(play)(scene, monkeypatch)


@pytest.mark.parametrize(
    "error",
    [
        h11.LocalProtocolError("secret"),
        ssl.SSLError("secret"),
        ValueError("secret"),
        RuntimeError(),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_more_failure(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """Its text is not said, as the address may be in it."""
    real = Webhook._post

    def fail(times: int) -> None:
        left = [error] * times

        async def post(self: Webhook, body: bytes) -> int:
            if left:
                raise left.pop()
            return await real(self, body)

        monkeypatch.setattr(Webhook, "_post", post)

    async def passes(scene: Scene, hook: Hook, webhook: Webhook, said: list[str]) -> None:
        webhook.held(scene.hold(), "")
        await until(lambda: not webhook._tasks)
        assert webhook.counts == {"retried": 2, "sent": 1} and len(hook.got) == 1 and not said

    async def stays(scene: Scene, hook: Hook, webhook: Webhook, said: list[str]) -> None:
        webhook.held(scene.hold(), "")
        await until(lambda: not webhook._tasks)
        assert webhook.counts == {"retried": 2, "failed": 1} and not hook.got
        assert webhook.problem.startswith(f"{type(error).__name__} (test_decide_links.py:")
        assert webhook.problem in said[0] and "secret" not in said[0]

    for times, test in ((2, passes), (3, stays)):
        fail(times)
        over(200)(test)(scene, monkeypatch)


@over(500)
async def test_what_is_over_is_not_told_any_more(scene, hook, webhook, said):
    waiting = scene.hold()
    webhook.held(waiting, "")
    scene.approvals.cancel(waiting, "taken back")
    await until(lambda: not webhook._tasks)
    assert not hook.got and not webhook.counts["failed"]


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/", "http://example.org/x", "https://u:p@h/", "host.x", "", "https://"),
        *("http://[x", "https://h:99999/", "https://h/a b", "https://h/\n"),
        *("https://a..b/", f"https://{'a' * 64}.org/"),
    ],
)
def test_addresses_that_are_refused_and_not_said(url: str):
    with pytest.raises(WebhookError) as error:
        check(url)
    assert not url or url not in str(error.value)
    Webhook("https://example.org/x")
    Webhook("http://[::1]:9/x")
