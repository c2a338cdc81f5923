"""Calls of model APIs over http.client, for APIs whose own clients are not at hand: Gemini, Ollama,
Bedrock. Plan and lines as in model_calling.py; a stream's frames are taken apart here."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import ssl
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from model_calling import PARAMETERS, TOOLS, Call, Received, call_all, plan, prompt

Request = tuple[str, dict[str, str], dict[str, Any]]  # path, fields, body


def openai_chat(call: Call) -> Request:
    body = {"model": call["model"], "messages": [{"role": "user", "content": prompt(call)}]}
    if call["tools"]:
        functions = [{"name": name, "parameters": PARAMETERS} for name in TOOLS]
        body["tools"] = [{"type": "function", "function": one} for one in functions]
    if call["stream"]:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return "/v1/chat/completions", {"Authorization": f"Bearer {call['key']}"}, body


def gemini(call: Call) -> Request:
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt(call)}]}]}
    if call["tools"]:
        functions = [{"name": name, "parameters": PARAMETERS} for name in TOOLS]
        body["tools"] = [{"functionDeclarations": functions}]
    method = "streamGenerateContent?alt=sse" if call["stream"] else "generateContent"
    return f"/v1beta/models/{call['model']}:{method}", {"x-goog-api-key": call["key"]}, body


def ollama(call: Call) -> Request:
    body = {"model": call["model"], "messages": [{"role": "user", "content": prompt(call)}]}
    return "/api/chat", {}, body | {"stream": call["stream"]}


def bedrock(call: Call, tail: str, body: dict[str, Any]) -> Request:
    model = quote(f"anthropic.{call['model']}-v1:0", safe="")
    return f"/model/{model}/{tail}", {"Authorization": f"Bearer {call['key']}"}, body


def invoke(call: Call) -> Request:
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100}
    body["messages"] = [{"role": "user", "content": prompt(call)}]
    return bedrock(call, "invoke-with-response-stream", body)


def converse(call: Call) -> Request:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": prompt(call)}]}]}
    if call["tools"]:
        specs = [{"name": name, "inputSchema": {"json": PARAMETERS}} for name in TOOLS]
        body["toolConfig"] = {"tools": [{"toolSpec": spec} for spec in specs]}
    return bedrock(call, "converse-stream" if call["stream"] else "converse", body)


REQUESTS = {
    "chat": openai_chat,
    "gemini": gemini,
    "ollama": ollama,
    "invoke": invoke,
    "converse": converse,
}


def parts_of(kind: str, text: bytes) -> Iterator[Any]:
    """The JSON values of a body, whatever carries them."""
    if kind == "text/event-stream":
        for line in text.splitlines():
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line[6:])
    elif kind == "application/x-ndjson":
        yield from map(json.loads, text.splitlines())
    elif kind == "application/vnd.amazon.eventstream":
        while text:
            total, headers = struct.unpack(">II", text[:8])
            part = json.loads(text[12 + headers : total - 4])
            yield json.loads(base64.b64decode(part["bytes"])) if "bytes" in part else part
            text = text[total:]
    else:
        yield json.loads(text)


# Where the vendors keep what we look for: names of one thing, deepest first.
FINISH = ("finish_reason", "finishReason", "done_reason", "stopReason", "stop_reason")
INPUT = ("prompt_tokens", "promptTokenCount", "prompt_eval_count", "inputTokens", "input_tokens")
OUTPUT = ("completion_tokens", "candidatesTokenCount", "eval_count", "outputTokens")
MODEL = ("modelVersion", "model")
TOOL = ("function", "functionCall", "toolUse")


def found(value: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """All values under one of the names, anywhere."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names and inner:
                yield inner
            yield from found(inner, names)
    elif isinstance(value, list):
        for inner in value:
            yield from found(inner, names)


def read(parts: list[Any]) -> Received:
    got: Received = {"status": 200}
    got["chosen"] = [one["name"] for one in found(parts, TOOL) if "name" in one]
    names = {"answered": MODEL, "finish": FINISH, "input_tokens": INPUT}
    names["output_tokens"] = (*OUTPUT, "output_tokens")
    for name, keys in names.items():
        if values := list(found(parts, keys)):
            got[name] = values[-1]
    return got


def act(base: str, call: Call) -> Received:
    at = urlsplit(base)
    if at.scheme == "https":
        trusted = ssl.create_default_context()
        connection: Any = http.client.HTTPSConnection(at.netloc, context=trusted)
    else:
        connection = http.client.HTTPConnection(at.netloc)
    path, fields, body = REQUESTS[call["operation"]](call)
    fields["Content-Type"] = "application/json"
    connection.request("POST", path, json.dumps(body), fields)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status != 200:
        return {"status": response.status}
    return read(list(parts_of(response.headers.get_content_type(), text)))


def main() -> None:
    asked = plan()
    call_all(asked, functools.partial(act, asked["base"]))


main()
