"""A gateway's inside with a real policy, a real log, and no transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hullwatch.agent.mcp.gate import Held
from hullwatch.agent.mcp.message import read
from hullwatch.agent.mcp.observer import Dialogue, Observer
from hullwatch.agent.mcp.pins import Pins
from hullwatch.decide.approvals import Person
from hullwatch.decide.engine import Engine
from hullwatch.decide.log import Log
from hullwatch.gatekeeper import Gatekeeper, Requester
from support.mcp_reporter import Recording

__all__ = [
    "BYPASSES", "HIDDEN_SAMPLING", "PERSON", "POLICIES", "SAMPLING", "Scene", "over", "raw_call",
    "reply", "request_of", "sampling", "sampling_params",
]  # fmt: skip

POLICIES = """
@id("no-delete") @reason("nothing is deleted here")
forbid (principal, action == Action::"tool-call", resource == Tool::"srv/delete_file");

@id("ask-write") @effect("challenge") @reason("writing needs a person") @deadline("60s")
forbid (principal, action == Action::"tool-call", resource)
when { resource.name == "write_file" };

@id("ask-soon") @effect("challenge") @deadline("1s")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "soon" };

@id("ask-open") @effect("challenge") @deadline("1s") @fail("open")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "open" };

@id("ask-self") @effect("challenge") @answer("requester") @approvers("uid:1000")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "own" };

@id("ask-self-soon") @effect("challenge") @answer("requester") @deadline("1s")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "own-soon" };

@id("no-secrets") forbid (principal, action == Action::"tool-call", resource)
when { context has secret_kinds && context.secret_kinds.contains("test_key") };

@id("watch") @mode("observe")
forbid (principal, action == Action::"tool-call", resource) when { resource.name == "watched" };

@id("changed") forbid (principal, action == Action::"tool-call", resource)
when { context has definition && context.definition == "changed" };
"""
PERSON = Person(0, 1, 0)


def request_of(ident: Any, method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def raw_call(ident: Any, name: Any, **params: Any) -> bytes:
    return json.dumps(request_of(ident, name=name, **params)).encode()


class Found:
    kind, start, end = "test_key", 0, 1


def detect(data: bytes) -> list[Found]:
    return [Found()] if b"s3cr3t" in data else []


class Scene:
    """A gateway's inside with a real policy, a real log, and no transport."""

    def __init__(self, folder: Path, decider: Any = None, **more: Any) -> None:
        self.reporter = Recording()
        self.log = Log(folder / "log")
        engine = decider or Engine.of([(POLICIES, "p.cedar")])
        self.pins = Pins(folder / "pins.db")
        self.keeper = Gatekeeper(engine, self.log, Requester(1000), self.reporter, **more)
        self.observer = Observer(
            "srv",
            self.reporter,
            pins=self.pins,
            gate=self.keeper,
            hasher=lambda data: f"h{hash(data)}",
            detect=detect,
        )
        self.dialogue = Dialogue()
        self.told: list[dict[str, Any]] = []

    async def sent(self, raw: bytes) -> Any:
        outcome = await self.observer.sent(self.dialogue, read(raw), len(raw))
        if isinstance(outcome, list):
            return [json.loads(one) for one in outcome]
        return outcome

    async def tell(self, messages: Any) -> None:
        self.told += [json.loads(one) for one in messages]

    async def settle(self, held: Held) -> Any:
        answers = await held.settle(self.tell)
        return None if answers is None else [json.loads(one) for one in answers]

    async def lists(self, *names: str, description: str = "d") -> None:
        assert await self.sent(json.dumps(request_of("l", "tools/list")).encode()) is None
        tools = [{"name": name, "description": description} for name in names]
        answer = json.dumps({"jsonrpc": "2.0", "id": "l", "result": {"tools": tools}}).encode()
        self.observer.heard(self.dialogue, read(answer), len(answer))

    def waits(self) -> str:
        (ident,) = self.keeper.approvals.waiting
        return ident

    def answer(self, yes: bool, **more: Any) -> str:
        return self.keeper.approvals.answer(self.waits(), PERSON, yes, "because", **more)

    def kinds(self) -> list[tuple[str, str]]:
        self.log.flush()
        return [(one.kind, str(one.effect)) for one in self.log.entries()]


def over(test: Callable[..., Any]) -> Callable[..., None]:
    def run(tmp_path: Path) -> None:
        async def play() -> None:
            scene = Scene(tmp_path)
            await scene.keeper.start()
            try:
                await test(scene)
            finally:
                scene.keeper.close()
                assert scene.log.verify().ok

        asyncio.run(asyncio.wait_for(play(), 60))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def reply(asked: Any, **result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()


_CYRILLIC = "delet\N{CYRILLIC SMALL LETTER IE}_file"
BYPASSES = {
    "look-alike": raw_call(1, _CYRILLIC),
    "invisible": raw_call(1, "delete_\u200bfile"),
    "full width": raw_call(1, "ｄelete_file"),
    "space": raw_call(1, "delete_file "),
    "control": raw_call(1, "delete_file\u0000"),
    "no name": raw_call(1, ""),
    "name that is none": raw_call(1, ["delete_file"]),
    "doubled method": b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call",'
    b'"params":{"name":"delete_file"}}',
    "doubled name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"read_file","name":"delete_file"}}',
    "another case": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"read_file","Name":"delete_file"}}',
    "escaped key": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"read_file","\\u006eame":"delete_file"}}',
    "no id": b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete_file"}}',
    "null id": b'{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"delete_file"}}',
    "method in another case": raw_call(1, "delete_file").replace(b"tools/call", b"tools/Call"),
    "look-alike method": json.dumps(
        request_of(1, "t\N{CYRILLIC SMALL LETTER O}ols/call", name="delete_file")
    ).encode(),
    "no JSON": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_file"},}',
    "byte order mark": b"\xef\xbb\xbf" + raw_call(1, "delete_file"),
    "UTF-16": raw_call(1, "delete_file").decode().encode("utf-16"),
    "escaped method": b'{"jsonrpc":"2.0","id":1,"method":"tools\\u002fcall",'
    b'"params":{"name":"delete\\u005ffile"}}',
    "batch in a batch": b"[[" + raw_call(1, "delete_file") + b"]]",
    "last of a batch": b"["
    + b",".join([raw_call(n, "read_file") for n in range(9)])
    + b","
    + raw_call(9, "delete_file")
    + b"]",
}
"""Messages that try to call delete_file, and are not passed on."""


SAMPLING = "sampling/createMessage"


def sampling_params(model: str = "", said: str = "hello") -> dict[str, Any]:
    wishes = {"modelPreferences": {"hints": [{"name": model}, {"name": "fine"}]}} if model else {}
    message = {"role": "user", "content": {"type": "text", "text": said}}
    return {"messages": [message], "maxTokens": 9} | wishes


def sampling(ident: Any, model: str = "", said: str = "hello", **more: Any) -> bytes:
    params = sampling_params(model, said) | more
    return json.dumps(request_of(ident, SAMPLING, **params)).encode()


_BIG = sampling(1, "big").decode()
_INSIDE = f'{{"method":"{SAMPLING}","params":{json.dumps(sampling_params("big"))}}}'
_HIDDEN = {
    "batch": f"[{_BIG}]",
    "last of a batch": f"[{sampling(2).decode()},{_BIG}]",
    "escaped method": _BIG.replace(SAMPLING, "sampling\\u002fcreateMessage"),
    "method twice": _BIG.replace('"method"', '"method":"ping","method"'),
    "method twice, the other first": _BIG.replace('"params"', '"method":"ping","params"'),
    "escaped key": _BIG.replace('"params"', '"\\u006dethod":"ping","params"'),
    "key in another case": _BIG.replace('"method"', '"Method":"ping","method"'),
    "method in another case": _BIG.replace("createMessage", "createmessage"),
    "look-alike": _BIG.replace("createMessage", "cr\N{CYRILLIC SMALL LETTER IE}ateMessage"),
    "no id": _BIG.replace('"id": 1, ', ""),
    "null id": _BIG.replace('"id": 1', '"id": null'),
    "answer and request": _BIG.replace('"id"', '"result":{},"id"'),
    "not JSON": _BIG[:-1] + ",}",
    "two models": _BIG.replace('"hints"', '"hints":[{"name":"small"}],"hints"'),
    "two names": _BIG.replace('"name": "big"', '"Name":"big","name":"small"'),
    "byte order mark": "\ufeff" + _BIG,
    "in an answer": f'{{"id":9,"result":{{"inputRequests":{{"a":{_INSIDE}}}}}}}',
    "in an answer, twice": f'{{"id":9,"result":{{"inputRequests":{{"a":{_INSIDE},"a":'
    f"{_INSIDE.replace('big', 'small')}}}}}}}",
    "in a list": f'{{"id":9,"result":{{"inputRequests":[{_INSIDE}]}}}}',
    "in one of two results": f'{{"id":9,"result":{{"inputRequests":{{"a":{_INSIDE}}}}},'
    '"result":1}',
    "beside an error": f'{{"id":9,"error":null,"result":{{"inputRequests":{{"a":{_INSIDE}}}}}}}',
    "beside half a surrogate": f'{{"id":9,"result":{{"\\ud800":1,"inputRequests":'
    f'{{"a":{_INSIDE}}}}}}}',
    "half a surrogate in its wishes": _BIG.replace('"hints"', '"\\ud800":1,"hints"'),
}
HIDDEN_SAMPLING = {way: said.encode() for way, said in _HIDDEN.items()}
"""Messages of a server that ask the client for the model `big`, and are not passed on."""
