"""The model APIs that the loopback server speaks: which request is whose, and how it is answered.

Enough of each for its clients: OpenAI chat completions, responses and embeddings (Azure, vLLM and
others by the same shapes), Anthropic messages, Gemini, Ollama, Bedrock invoke and converse. Shapes
are those of the vendors' API references. Answers are made by rote: tools that are offered are
called first, a tool's result is answered with text; tokens are words.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Answer", "Asked", "Refusal", "Said", "answer"]

Body = dict[str, Any]
WORDS = ("a ", "quiet ", "day")
REFUSED_KEY = "refused"  # in a key: the server does not know it
REFUSALS: Mapping[str, tuple[int, str]] = {
    "busy": (429, "rate_limit_error"),
    "broken": (500, "api_error"),
}
CUT = "cut"  # a model whose stream breaks off
SLOW = "slow"  # a model that thinks for a while


class Asked(NamedTuple):
    """What a request says. key: the API key, as it was sent."""

    model: str
    streamed: bool = False
    offered: tuple[str, ...] = ()
    words: int = 0
    after_tool: bool = False
    key: str = ""


class Said(NamedTuple):
    """The answer: words, or the tool that is chosen."""

    model: str
    chosen: str
    input: int
    output: int
    finish: str

    @property
    def words(self) -> tuple[str, ...]:
        return () if self.chosen else WORDS

    @property
    def text(self) -> str:
        return "".join(self.words)


class Answer(NamedTuple):
    """status: of HTTP. pieces: the body, in the pieces in which it is sent."""

    provider: str
    operation: str
    asked: Asked
    said: Said | None
    status: int
    kind: str
    pieces: Iterator[bytes]


class Refusal(NamedTuple):
    status: int
    word: str


class _Dialect(NamedTuple):
    """finishes: the words for text and for a tool. read: what was asked, but for model and key."""

    provider: str
    operation: str
    path: re.Pattern[str]
    finishes: tuple[str, str]
    read: Callable[[Body], Asked]
    whole: Callable[[Said, Body], Any]
    stream: Callable[[Said, Body], Iterator[bytes]]
    streamed: Callable[[Body, str], bool]
    kind: str = "text/event-stream"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def _count(value: Any) -> int:
    """Words in all texts, wherever they are."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0


ARGUMENTS = {"path": "report.md"}


# OpenAI: chat completions


def _read_chat(body: Body) -> Asked:
    tools = tuple(tool["function"]["name"] for tool in body.get("tools", ()))
    messages = body["messages"]
    return Asked("", False, tools, _count(messages), messages[-1]["role"] == "tool")


def _chat_usage(said: Said) -> Body:
    total = said.input + said.output
    return {
        "prompt_tokens": said.input,
        "completion_tokens": said.output,
        "total_tokens": total,
    }


def _chat_call(said: Said) -> Body:
    function = {"name": said.chosen, "arguments": json.dumps(ARGUMENTS)}
    return {"id": "call_1", "type": "function", "function": function}


def _chat_whole(said: Said, _: Body) -> Body:
    message: Body = {"role": "assistant", "content": said.text or None}
    if said.chosen:
        message["tool_calls"] = [_chat_call(said)]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": said.model,
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish}],
        "usage": _chat_usage(said),
    }


def _chat_stream(said: Said, body: Body) -> Iterator[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    base["model"] = said.model

    def chunk(delta: Body, finish: str | None = None) -> bytes:
        return _event(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for word in said.words:
        yield chunk({"content": word})
    if said.chosen:
        yield chunk({"tool_calls": [{"index": 0} | _chat_call(said)]})
    yield chunk({}, said.finish)
    if body.get("stream_options", {}).get("include_usage"):
        yield _event(base | {"choices": [], "usage": _chat_usage(said)})
    yield b"data: [DONE]\n\n"


# OpenAI: responses


def _read_responses(body: Body) -> Asked:
    tools = tuple(tool["name"] for tool in body.get("tools", ()))
    given = body["input"]
    after = isinstance(given, list) and given[-1].get("type") == "function_call_output"
    return Asked("", False, tools, _count(given), after)


def _response_item(said: Said, *, done: bool = True) -> Body:
    status = "completed" if done else "in_progress"
    if said.chosen:
        call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "status": status}
        return call | {"name": said.chosen, "arguments": json.dumps(ARGUMENTS) if done else ""}
    part = {"type": "output_text", "text": said.text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": status}
    return item | {"content": [part] if done else []}


def _responses_whole(said: Said, _: Body, *, done: bool = True) -> Body:
    usage = {
        "input_tokens": said.input,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": said.input + said.output,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed" if done else "in_progress",
        "model": said.model,
        "output": [_response_item(said)] if done else [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def _responses_stream(said: Said, body: Body) -> Iterator[bytes]:
    events: list[tuple[str, Body]] = []
    at = {"output_index": 0, "item_id": _response_item(said)["id"]}
    events.append(("created", {"response": _responses_whole(said, body, done=False)}))
    item = _response_item(said, done=False)
    events.append(("output_item.added", {"output_index": 0, "item": item}))
    if said.chosen:
        name, text = "function_call_arguments", json.dumps(ARGUMENTS)
        events.append((f"{name}.delta", at | {"delta": text}))
        events.append((f"{name}.done", at | {"arguments": text, "name": said.chosen}))
    else:
        here = at | {"content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": []}
        events.append(("content_part.added", here | {"part": part}))
        events += [("output_text.delta", here | {"delta": w, "logprobs": []}) for w in said.words]
        events.append(("output_text.done", here | {"text": said.text, "logprobs": []}))
        events.append(("content_part.done", here | {"part": part | {"text": said.text}}))
    events.append(("output_item.done", {"output_index": 0, "item": _response_item(said)}))
    events.append(("completed", {"response": _responses_whole(said, body)}))
    for number, (name, more) in enumerate(events):
        kind = f"response.{name}"
        yield _event({"type": kind, "sequence_number": number} | more, kind)


# OpenAI: embeddings


def _read_embeddings(body: Body) -> Asked:
    return Asked("", False, (), _count(body["input"]))


def _embeddings_whole(said: Said, body: Body) -> Body:
    numbers = (0.25, 0.5, 0.75)
    vector: Any = list(numbers)
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *numbers)).decode()
    return {
        "object": "list",
        "model": said.model,
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "usage": {"prompt_tokens": said.input, "total_tokens": said.input},
    }


# Anthropic: messages (and Bedrock's invoke, which has the same body)


def _read_messages(body: Body) -> Asked:
    tools = tuple(tool["name"] for tool in body.get("tools", ()))
    last = body["messages"][-1]["content"]
    after = isinstance(last, list) and last[0]["type"] == "tool_result"
    return Asked("", False, tools, _count(body["messages"]), after)


def _messages_block(said: Said) -> Body:
    if said.chosen:
        return {"type": "tool_use", "id": "toolu_1", "name": said.chosen, "input": ARGUMENTS}
    return {"type": "text", "text": said.text}


def _messages_whole(said: Said, _: Body) -> Body:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [_messages_block(said)],
        "stop_reason": said.finish,
        "stop_sequence": None,
        "usage": {"input_tokens": said.input, "output_tokens": said.output},
    }


def _messages_events(said: Said, body: Body) -> Iterator[Body]:
    whole = _messages_whole(said, body)
    usage = {"input_tokens": said.input, "output_tokens": 0}
    begun = whole | {"content": [], "stop_reason": None, "usage": usage}
    yield {"type": "message_start", "message": begun}
    empty: Body = {"input": {}} if said.chosen else {"text": ""}
    block = _messages_block(said) | empty
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "ping"}
    deltas: list[Body] = [{"type": "text_delta", "text": word} for word in said.words]
    if said.chosen:
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(ARGUMENTS)}]
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": said.finish, "stop_sequence": None}
    yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": said.output}}
    yield {"type": "message_stop"}


def _messages_stream(said: Said, body: Body) -> Iterator[bytes]:
    for event in _messages_events(said, body):
        yield _event(event, event["type"])


# Google: Gemini


def _read_gemini(body: Body) -> Asked:
    offered = [
        function["name"]
        for tool in body.get("tools", ())
        for function in tool.get("functionDeclarations", ())
    ]
    parts = body["contents"][-1]["parts"]
    after = "functionResponse" in parts[0]
    return Asked("", False, tuple(offered), _count(body["contents"]), after)


def _gemini_part(said: Said, parts: list[Body], *, last: bool) -> Body:
    candidate: Body = {"index": 0, "content": {"role": "model", "parts": parts}}
    told: Body = {"candidates": [candidate], "modelVersion": said.model, "responseId": "r1"}
    if last:
        candidate["finishReason"] = said.finish
        told["usageMetadata"] = {
            "promptTokenCount": said.input,
            "candidatesTokenCount": said.output,
            "totalTokenCount": said.input + said.output,
        }
    return told


def _gemini_parts(said: Said) -> list[Body]:
    if said.chosen:
        return [{"functionCall": {"name": said.chosen, "args": ARGUMENTS}}]
    return [{"text": word} for word in said.words]


def _gemini_whole(said: Said, _: Body) -> Body:
    return _gemini_part(said, _gemini_parts(said), last=True)


def _gemini_stream(said: Said, _: Body) -> Iterator[bytes]:
    parts = _gemini_parts(said)
    for number, part in enumerate(parts, 1):
        yield _event(_gemini_part(said, [part], last=number == len(parts)))


# Ollama


def _read_ollama(body: Body) -> Asked:
    tools = tuple(tool["function"]["name"] for tool in body.get("tools", ()))
    messages = body["messages"]
    return Asked("", False, tools, _count(messages), messages[-1]["role"] == "tool")


def _ollama_part(said: Said, message: Body, *, last: bool) -> Body:
    told = {"model": said.model, "created_at": "2026-01-01T00:00:00Z", "done": last}
    told["message"] = {"role": "assistant"} | message
    if last:
        told |= {"done_reason": said.finish, "prompt_eval_count": said.input}
        told |= {"eval_count": said.output, "total_duration": 1}
    return told


def _ollama_whole(said: Said, _: Body) -> Body:
    message: Body = {"content": said.text}
    if said.chosen:
        message["tool_calls"] = [{"function": {"name": said.chosen, "arguments": ARGUMENTS}}]
    return _ollama_part(said, message, last=True)


def _ollama_stream(said: Said, body: Body) -> Iterator[bytes]:
    for word in said.words:
        yield _json(_ollama_part(said, {"content": word}, last=False)) + b"\n"
    last = _ollama_whole(said, body)
    last["message"]["content"] = ""
    yield _json(last) + b"\n"


# Amazon: Bedrock


def _frame(name: str, payload: bytes) -> bytes:
    """One message of application/vnd.amazon.eventstream: lengths, CRC, headers, payload, CRC."""
    headers = b""
    for key, value in (
        (":event-type", name),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ):
        headers += bytes([len(key)]) + key.encode() + b"\x07"
        headers += struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    start = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + payload
    return start + struct.pack(">I", binascii.crc32(start))


def _invoke_stream(said: Said, body: Body) -> Iterator[bytes]:
    for event in _messages_events(said, body):
        inner = base64.b64encode(_json(event)).decode()
        yield _frame("chunk", _json({"bytes": inner}))


def _read_converse(body: Body) -> Asked:
    tools = body.get("toolConfig", {}).get("tools", ())
    offered = tuple(tool["toolSpec"]["name"] for tool in tools)
    after = "toolResult" in body["messages"][-1]["content"][0]
    return Asked("", False, offered, _count(body["messages"]), after)


def _converse_usage(said: Said) -> Body:
    total = said.input + said.output
    return {"inputTokens": said.input, "outputTokens": said.output, "totalTokens": total}


def _converse_call(said: Said) -> Body:
    return {"toolUseId": "tooluse_1", "name": said.chosen}


def _converse_whole(said: Said, _: Body) -> Body:
    content: Body = {"text": said.text}
    if said.chosen:
        content = {"toolUse": _converse_call(said) | {"input": ARGUMENTS}}
    return {
        "output": {"message": {"role": "assistant", "content": [content]}},
        "stopReason": said.finish,
        "usage": _converse_usage(said),
        "metrics": {"latencyMs": 1},
    }


def _converse_stream(said: Said, _: Body) -> Iterator[bytes]:
    yield _frame("messageStart", _json({"role": "assistant"}))
    at = {"contentBlockIndex": 0}
    deltas: list[Body] = [{"text": word} for word in said.words]
    if said.chosen:
        yield _frame("contentBlockStart", _json(at | {"start": {"toolUse": _converse_call(said)}}))
        deltas = [{"toolUse": {"input": json.dumps(ARGUMENTS)}}]
    for delta in deltas:
        yield _frame("contentBlockDelta", _json(at | {"delta": delta}))
    yield _frame("contentBlockStop", _json(at))
    yield _frame("messageStop", _json({"stopReason": said.finish}))
    last = {"usage": _converse_usage(said), "metrics": {"latencyMs": 1}}
    yield _frame("metadata", _json(last))


def _asked_for(body: Body, _: str) -> bool:
    return bool(body.get("stream"))


def _never(_: Said, __: Body) -> Iterator[bytes]:
    raise LookupError("has no stream")


_OPENAI = ("stop", "tool_calls")
_ANTHROPIC = ("end_turn", "tool_use")
_AMAZON = "application/vnd.amazon.eventstream"
_CHAT = (_OPENAI, _read_chat, _chat_whole, _chat_stream, _asked_for)
_DIALECTS = (
    _Dialect("azure", "chat", re.compile(r"/openai/deployments/([^/]+)/chat/completions"), *_CHAT),
    _Dialect("openai", "chat", re.compile(r"(?:/v1)?/chat/completions"), *_CHAT),
    _Dialect(
        "openai",
        "responses",
        re.compile(r"(?:/v1)?/responses"),
        ("completed", "completed"),
        _read_responses,
        _responses_whole,
        _responses_stream,
        _asked_for,
    ),
    _Dialect(
        "openai",
        "embeddings",
        re.compile(r"(?:/v1)?/embeddings"),
        ("", ""),
        _read_embeddings,
        _embeddings_whole,
        _never,
        lambda *_: False,
    ),
    _Dialect(
        "anthropic",
        "chat",
        re.compile(r"/v1/messages"),
        _ANTHROPIC,
        _read_messages,
        _messages_whole,
        _messages_stream,
        _asked_for,
    ),
    _Dialect(
        "gemini",
        "chat",
        re.compile(r"/v1(?:beta)?/models/([^/:]+):(?:streamGenerateContent|generateContent)"),
        ("STOP", "STOP"),
        _read_gemini,
        _gemini_whole,
        _gemini_stream,
        lambda _, path: path.endswith(":streamGenerateContent"),
    ),
    _Dialect(
        "ollama",
        "chat",
        re.compile(r"/api/chat"),
        ("stop", "stop"),
        _read_ollama,
        _ollama_whole,
        _ollama_stream,
        lambda body, _: bool(body.get("stream", True)),
        "application/x-ndjson",
    ),
    _Dialect(
        "bedrock",
        "chat",
        re.compile(r"/model/([^/]+)/invoke(?:-with-response-stream)?"),
        _ANTHROPIC,
        _read_messages,
        _messages_whole,
        _invoke_stream,
        lambda _, path: path.endswith("-stream"),
        _AMAZON,
    ),
    _Dialect(
        "bedrock",
        "converse",
        re.compile(r"/model/([^/]+)/converse(?:-stream)?"),
        _ANTHROPIC,
        _read_converse,
        _converse_whole,
        _converse_stream,
        lambda _, path: path.endswith("-stream"),
        _AMAZON,
    ),
)


def _key(headers: Mapping[str, str]) -> str:
    """The API key, wherever a vendor's client puts it."""
    for name in ("x-api-key", "api-key", "x-goog-api-key"):
        if name in headers:
            return headers[name]
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    return rest if scheme.lower() == "bearer" else ""


def _refusal(asked: Asked) -> Refusal | None:
    if REFUSED_KEY in asked.key:
        return Refusal(401, "authentication_error")
    status = REFUSALS.get(asked.model)
    return Refusal(*status) if status else None


def answer(path: str, headers: Mapping[str, str], body: Body) -> Answer | None:
    """None: no API has this path. headers: names in lower case."""
    for dialect in _DIALECTS:
        if match := dialect.path.fullmatch(path):
            break
    else:
        return None
    model = match[1] if match.re.groups else body["model"]
    streamed = dialect.streamed(body, path)
    asked = dialect.read(body)._replace(model=model, streamed=streamed, key=_key(headers))
    if refused := _refusal(asked):
        error = {"type": refused.word, "code": refused.word, "message": "as it was asked to"}
        told = _json({"type": "error", "error": error})
        kind = "application/json"
        names = (dialect.provider, dialect.operation)
        return Answer(*names, asked, None, refused.status, kind, iter([told]))
    chosen = asked.offered[0] if asked.offered and not asked.after_tool else ""
    said = Said(
        model=f"{model}-2026-01-01",
        chosen=chosen,
        input=asked.words,
        output=0 if dialect.operation == "embeddings" else 1 if chosen else len(WORDS),
        finish=dialect.finishes[bool(chosen)],
    )
    pieces = dialect.stream(said, body) if streamed else iter([_json(dialect.whole(said, body))])
    kind = dialect.kind if streamed else "application/json"
    return Answer(dialect.provider, dialect.operation, asked, said, 200, kind, pieces)
