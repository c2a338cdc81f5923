"""What clients and servers of models and MCP say, byte by byte, as their makers document it.

Each `Sample` is one connection: pieces in the order in which they go over it (True: by the client),
and what is to be read in it. PROMPT and REPLY stand wherever content stands: nothing may keep them.
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from typing import Any, NamedTuple

import hpack

__all__ = [
    "KEY",
    "MODELS",
    "PROMPT",
    "REPLY",
    "TOOLS",
    "Sample",
    "chunked",
    "event_frame",
    "request",
    "response",
    "sse",
]

PROMPT = 'planted-prompt "quoted" \\ line\nend é 漢'
REPLY = 'planted-reply {"model":"evil"} ]}\r\n\r\ndata: x\n\nHTTP/1.1 200 OK\r\n'
KEY = "sk-planted-key-0123456789"

Pieces = list[tuple[bool, bytes]]


class Sample(NamedTuple):
    """expected: fields of the ModelCall, or of the ToolCall that ended."""

    name: str
    pieces: Pieces
    expected: dict[str, Any]


def request(
    target: str,
    host: str,
    body: Any,
    headers: dict[str, str] | None = None,
    method: str = "POST",
    chunks: int = 0,
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": host, "Content-Type": "application/json", **(headers or {})}
    lines |= {"Transfer-Encoding": "chunked"} if chunks else {"Content-Length": str(len(data))}
    return _head(f"{method} {target} HTTP/1.1", lines) + (chunked(data, chunks) if chunks else data)


def response(
    body: Any,
    kind: str = "application/json",
    status: str = "200 OK",
    headers: dict[str, str] | None = None,
    chunks: int = 0,
    close: bool = False,
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": kind, **(headers or {})}
    if chunks:
        lines["transfer-encoding"] = "chunked"
    elif not close:
        lines["content-length"] = str(len(data))
    return _head(f"HTTP/1.1 {status}", lines) + (chunked(data, chunks) if chunks else data)


def _head(start: str, headers: dict[str, str]) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def chunked(data: bytes, size: int) -> bytes:
    """In chunks of `size`, with an extension and a trailer that nobody needs."""
    out = b""
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        out += b"%x;x=1\r\n%s\r\n" % (len(piece), piece)
    return out + b"0\r\nX-Trailer: 1\r\n\r\n"


def sse(*events: Any, names: bool = False, done: bool = False) -> bytes:
    """names: with an `event:` line from the data's `type`, as Anthropic and Responses have it."""
    out = b""
    for event in events:
        name = f"event: {event['type']}\n" if names else ""
        out += f"{name}data: {json.dumps(event)}\n\n".encode()
    return out + (b"data: [DONE]\n\n" if done else b"")


def event_frame(payload: Any, **headers: str) -> bytes:
    """Amazon's framing; header names come with `_` for `-`, and begin with a colon."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    block = b""
    for name, value in headers.items():
        key = f":{name.replace('_', '-')}".encode()
        block += struct.pack(">B", len(key)) + key + b"\x07"
        block += struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(data), len(block))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + data
    return frame + struct.pack(">I", zlib.crc32(frame))


def frames(*parts: tuple[int, int, int, bytes]) -> bytes:
    """HTTP/2 frames of (type, flags, stream, payload)."""
    return b"".join(
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
        for kind, flags, stream, payload in parts
    )


# --- OpenAI and its like ------------------------------------------------------------------------

_TOOL = {"type": "object", "properties": {"name": {"type": "string", "description": PROMPT}}}
_CHAT = {
    "messages": [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    ],
    "model": "gpt-4o",
    "tools": [
        {"type": "function", "function": {"name": "weather", "parameters": _TOOL}},
        {"type": "function", "function": {"parameters": _TOOL, "name": "search"}},
    ],
}
_CHAT_REPLY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": REPLY,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": json.dumps({"q": REPLY})},
                    }
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 30,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    },
    "system_fingerprint": "fp_1",
}


def _delta(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1}
    return {**chunk, "model": "gpt-4o-2024-08-06", "choices": [choice], **more}


_CHAT_STREAM = sse(
    _delta({"role": "assistant", "content": "", "refusal": None}),
    _delta({"content": REPLY}),
    _delta(
        {
            "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "search"}}
            ]
        }
    ),
    _delta({"tool_calls": [{"index": 0, "function": {"arguments": json.dumps(REPLY)}}]}),
    _delta({}, finish="tool_calls"),
    {
        "id": "chatcmpl-2",
        "model": "gpt-4o-2024-08-06",
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None},
    },
    done=True,
)
_BEARER = {"Authorization": f"Bearer {KEY}"}
_CHAT_EXPECTED = {
    "provider": "openai",
    "api": "openai.chat",
    "operation": "chat",
    "host": "api.openai.com",
    "asked": "gpt-4o",
    "answered": "gpt-4o-2024-08-06",
    "response_id": "chatcmpl-1",
    "offered": ("weather", "search"),
    "chosen": ("weather",),
    "input_tokens": 120,
    "output_tokens": 30,
    "cached_tokens": 64,
    "finish": ("tool_calls",),
    "streamed": False,
    "http_status": 200,
    "status": "ok",
    "credential": ("bearer", KEY),
    "partial": False,
}
_STREAMED = {
    "response_id": "chatcmpl-2",
    "chosen": ("search",),
    "input_tokens": 9,
    "output_tokens": 4,
    "cached_tokens": None,
    "streamed": True,
}


def _openai(target: str = "/v1/chat/completions", host: str = "api.openai.com") -> Pieces:
    return [(True, request(target, host, _CHAT, _BEARER)), (False, response(_CHAT_REPLY))]


_ERROR = {
    "error": {
        "message": f"Rate limit reached: {PROMPT}",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
    }
}
_RESPONSES = {
    "input": [{"role": "user", "content": PROMPT}],
    "model": "gpt-5",
    "tools": [
        {"type": "web_search_preview"},
        {"type": "function", "name": "weather", "parameters": _TOOL, "strict": True},
        {"type": "mcp", "server_label": "deepwiki", "server_url": "https://x"},
    ],
}
_RESPONSES_REPLY: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "instructions": PROMPT,
    "model": "gpt-5-2025-08-07",
    "output": [
        {"type": "message", "content": [{"type": "output_text", "text": REPLY}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": REPLY},
    ],
    "tools": _RESPONSES["tools"],
    "usage": {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 10},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 70,
    },
}
_RESPONSES_STREAM = sse(
    {
        "type": "response.created",
        "response": _RESPONSES_REPLY | {"status": "in_progress", "output": [], "usage": None},
    },
    {
        "type": "response.output_item.added",
        "item": {"type": "function_call", "name": "weather", "arguments": ""},
    },
    {"type": "response.function_call_arguments.delta", "delta": json.dumps(REPLY)},
    {
        "type": "response.output_item.done",
        "item": {"type": "function_call", "name": "weather", "arguments": REPLY},
    },
    {"type": "response.completed", "response": _RESPONSES_REPLY},
    names=True,
)
_RESPONSES_EXPECTED = {
    "provider": "openai",
    "api": "openai.responses",
    "asked": "gpt-5",
    "answered": "gpt-5-2025-08-07",
    "response_id": "resp_1",
    "offered": ("web_search_preview", "weather", "deepwiki"),
    "chosen": ("weather",),
    "input_tokens": 50,
    "output_tokens": 20,
    "cached_tokens": 10,
    "finish": ("completed",),
    "status": "ok",
}

# --- Anthropic ----------------------------------------------------------------------------------

_MESSAGES = {
    "max_tokens": 100,
    "messages": [{"role": "user", "content": PROMPT}],
    "model": "claude-sonnet-4-5",
    "system": PROMPT,
    "tools": [{"name": "weather", "description": PROMPT, "input_schema": _TOOL}],
}
_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 100,
    "output_tokens": 1,
    "service_tier": "standard",
}
_MESSAGES_REPLY = {
    "model": "claude-sonnet-4-5-20250929",
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "text", "text": REPLY},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"name": REPLY}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": _USAGE | {"output_tokens": 42},
}
_MESSAGES_STREAM = sse(
    {
        "type": "message_start",
        "message": _MESSAGES_REPLY | {"content": [], "stop_reason": None, "usage": _USAGE},
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": REPLY}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": json.dumps({"q": REPLY})},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 42},
    },
    {"type": "message_stop"},
    names=True,
)
_ANTHROPIC_KEY = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
_MESSAGES_EXPECTED = {
    "provider": "anthropic",
    "api": "anthropic.messages",
    "host": "api.anthropic.com",
    "asked": "claude-sonnet-4-5",
    "answered": "claude-sonnet-4-5-20250929",
    "response_id": "msg_1",
    "offered": ("weather",),
    "chosen": ("weather",),
    "input_tokens": 115,
    "output_tokens": 42,
    "cached_tokens": 100,
    "cache_written_tokens": 5,
    "finish": ("tool_use",),
    "status": "ok",
    "credential": ("x-api-key", KEY),
}

# --- Google -------------------------------------------------------------------------------------

_GEMINI = {
    "contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
    "tools": [{"functionDeclarations": [{"name": "weather", "parameters": _TOOL}]}],
}


def _gemini_piece(parts: list[Any], **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": parts, "role": "model"}, "index": 0, **more}
    return {"candidates": [candidate], "modelVersion": "gemini-2.5-flash-001", "responseId": "r1"}


_GEMINI_USAGE = {
    "usageMetadata": {
        "promptTokenCount": 8,
        "candidatesTokenCount": 3,
        "totalTokenCount": 11,
        "cachedContentTokenCount": 2,
    }
}
_GEMINI_LAST = (
    _gemini_piece(
        [{"functionCall": {"name": "weather", "args": {"name": REPLY}}}], finishReason="STOP"
    )
    | _GEMINI_USAGE
)
_GEMINI_EXPECTED = {
    "provider": "gcp.gemini",
    "api": "google.generate",
    "operation": "generate_content",
    "asked": "gemini-2.5-flash",
    "answered": "gemini-2.5-flash-001",
    "response_id": "r1",
    "offered": ("weather",),
    "chosen": ("weather",),
    "input_tokens": 8,
    "output_tokens": 3,
    "cached_tokens": 2,
    "finish": ("STOP",),
    "status": "ok",
}
_GOOGLE_HOST = "generativelanguage.googleapis.com"
_GOOGLE_MODEL = "/v1beta/models/gemini-2.5-flash"

# --- Bedrock ------------------------------------------------------------------------------------

_SIGV4 = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20250101/us-east-1/bedrock/"
    "aws4_request, SignedHeaders=host;x-amz-date, Signature=abcdef0123456789"
}
_CONVERSE = {
    "messages": [{"role": "user", "content": [{"text": PROMPT}]}],
    "toolConfig": {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": _TOOL}}}]},
}
_CONVERSE_USAGE = {
    "inputTokens": 7,
    "outputTokens": 3,
    "totalTokens": 20,
    "cacheReadInputTokens": 10,
    "cacheWriteInputTokens": 0,
}
_CONVERSE_REPLY = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [{"text": REPLY}, {"toolUse": {"name": "weather", "input": {"q": REPLY}}}],
        }
    },
    "stopReason": "tool_use",
    "usage": _CONVERSE_USAGE,
    "metrics": {"latencyMs": 100},
}
_BEDROCK_HOST = "bedrock-runtime.us-east-1.amazonaws.com"
_BEDROCK_MODEL = "/model/anthropic.claude-3-5-sonnet-20241022-v2%3A0"
_BEDROCK_EXPECTED = {
    "provider": "aws.bedrock",
    "asked": "anthropic.claude-3-5-sonnet-20241022-v2:0",
    "offered": ("weather",),
    "chosen": ("weather",),
    "finish": ("tool_use",),
    "status": "ok",
    "credential": ("sigv4", "AKIAIOSFODNN7EXAMPLE"),
}
_EVENT_STREAM = "application/vnd.amazon.eventstream"


def _converse_event(name: str, payload: Any) -> bytes:
    return event_frame(
        payload, event_type=name, content_type="application/json", message_type="event"
    )


def _invoke_chunk(event: Any) -> bytes:
    packed = base64.b64encode(json.dumps(event).encode()).decode()
    return _converse_event("chunk", {"bytes": packed, "p": "abcdefg"})


_CONVERSE_STREAM = b"".join(
    (
        _converse_event("messageStart", {"role": "assistant", "p": "abc"}),
        _converse_event(
            "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": REPLY}, "p": "a"}
        ),
        _converse_event(
            "contentBlockStart",
            {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t", "name": "weather"}}},
        ),
        _converse_event("messageStop", {"stopReason": "tool_use"}),
        _converse_event("metadata", {"usage": _CONVERSE_USAGE, "metrics": {"latencyMs": 5}}),
    )
)
_INVOKE_STREAM = b"".join(
    (
        _invoke_chunk({"type": "message_start", "message": {"model": "m", "usage": _USAGE}}),
        _invoke_chunk(
            {
                "type": "content_block_start",
                "content_block": {"type": "tool_use", "name": "weather"},
            }
        ),
        _invoke_chunk({"type": "content_block_delta", "delta": {"text": REPLY}}),
        _invoke_chunk({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}}),
        _invoke_chunk(
            {
                "type": "message_stop",
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 11, "outputTokenCount": 6},
            }
        ),
    )
)

# --- Cohere, Ollama -----------------------------------------------------------------------------

_COHERE = {
    "model": "command-a-03-2025",
    "messages": [{"role": "user", "content": PROMPT}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": _TOOL}}],
}
_COHERE_USAGE = {
    "usage": {
        "billed_units": {"input_tokens": 5, "output_tokens": 7},
        "tokens": {"input_tokens": 71, "output_tokens": 9},
    }
}
_COHERE_STREAM = sse(
    {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-delta", "delta": {"message": {"content": {"text": REPLY}}}},
    {
        "type": "tool-call-start",
        "delta": {"message": {"tool_calls": {"id": "t", "function": {"name": "weather"}}}},
    },
    {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", **_COHERE_USAGE}},
    names=True,
)
_COHERE_EXPECTED = {
    "provider": "cohere",
    "asked": "command-a-03-2025",
    "response_id": "c1",
    "offered": ("weather",),
    "chosen": ("weather",),
    "input_tokens": 71,
    "output_tokens": 9,
    "finish": ("TOOL_CALL",),
}
_OLLAMA = {
    "model": "llama3.2",
    "messages": [{"role": "user", "content": PROMPT}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": _TOOL}}],
}


def _ollama_line(message: Any, done: bool, **more: Any) -> bytes:
    line = {"model": "llama3.2", "created_at": "2025-01-01T00:00:00Z", "message": message}
    return json.dumps({**line, "done": done, **more}).encode() + b"\n"


_OLLAMA_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "weather", "arguments": {"q": REPLY}}}],
}
_OLLAMA_STREAM = b"".join(
    (
        _ollama_line({"role": "assistant", "content": REPLY}, False),
        _ollama_line(_OLLAMA_CALL, False),
        _ollama_line(
            {"role": "assistant", "content": ""},
            True,
            done_reason="stop",
            total_duration=1,
            prompt_eval_count=26,
            eval_count=12,
        ),
    )
)
_OLLAMA_EXPECTED = {
    "provider": "ollama",
    "api": "ollama.chat",
    "asked": "llama3.2",
    "answered": "llama3.2",
    "offered": ("weather",),
    "chosen": ("weather",),
    "input_tokens": 26,
    "output_tokens": 12,
    "finish": ("stop",),
    "status": "ok",
}


def _h2_chat() -> Pieces:
    """The chat over HTTP/2, as one stream, with CONTINUATION, padding, an interim response and
    trailers."""
    asks, answers = hpack.Encoder(), hpack.Encoder()
    block = asks.encode(
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "api.openai.com"),
            (":path", "/v1/chat/completions"),
            ("content-type", "application/json"),
            ("authorization", f"Bearer {KEY}"),
        ]
    )
    body = json.dumps(_CHAT).encode()
    client = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames(
        (4, 0, 0, b"\x00\x01\x00\x00\x10\x00"),
        (8, 0, 0, b"\x00\x0f\xff\xff"),
        (1, 0, 1, block[:20]),
        (9, 4, 1, block[20:]),
        (0, 0, 1, body[:100]),
        (0, 9, 1, b"\x05" + body[100:] + bytes(5)),
    )
    interim = answers.encode([(":status", "103"), ("link", "</x>")])
    head = answers.encode([(":status", "200"), ("content-type", "text/event-stream")])
    trailers = answers.encode([("x-trailer", "1")])
    server = frames(
        (4, 0, 0, b""),
        (4, 1, 0, b""),
        (1, 4, 1, interim),
        (1, 4, 1, head),
        (0, 0, 1, _CHAT_STREAM[:300]),
        (6, 0, 0, bytes(8)),
        (0, 0, 1, _CHAT_STREAM[300:]),
        (1, 5, 1, trailers),
    )
    return [(True, client), (False, server)]


MODELS: tuple[Sample, ...] = (
    Sample("openai", _openai(), _CHAT_EXPECTED),
    Sample(
        "openai streamed",
        [
            (True, request("/v1/chat/completions", "api.openai.com", _CHAT, _BEARER, chunks=50)),
            (False, b"HTTP/1.1 100 Continue\r\n\r\n"),
            (False, response(_CHAT_STREAM, "text/event-stream; charset=utf-8", chunks=70)),
        ],
        _CHAT_EXPECTED | _STREAMED,
    ),
    Sample("openai over http/2", _h2_chat(), _CHAT_EXPECTED | _STREAMED),
    Sample(
        "openai packed",
        [
            _openai()[0],
            (
                False,
                response(
                    gzip.compress(json.dumps(_CHAT_REPLY).encode()),
                    headers={"content-encoding": "gzip"},
                    chunks=100,
                ),
            ),
        ],
        _CHAT_EXPECTED,
    ),
    Sample(
        "openai refuses",
        [_openai()[0], (False, response(_ERROR, status="429 Too Many Requests"))],
        {
            "status": "error",
            "error": "rate_limit_exceeded",
            "http_status": 429,
            "asked": "gpt-4o",
            "answered": "",
            "chosen": (),
        },
    ),
    Sample(
        "openai responses",
        [
            (True, request("/v1/responses", "api.openai.com", _RESPONSES, _BEARER)),
            (False, response(_RESPONSES_REPLY)),
        ],
        _RESPONSES_EXPECTED,
    ),
    Sample(
        "openai responses streamed",
        [
            (True, request("/v1/responses", "api.openai.com", _RESPONSES, _BEARER)),
            (False, response(_RESPONSES_STREAM, "text/event-stream", close=True)),
        ],
        _RESPONSES_EXPECTED | {"streamed": True},
    ),
    Sample(
        "openai embeddings",
        [
            (
                True,
                request(
                    "/v1/embeddings",
                    "api.openai.com",
                    {"input": PROMPT, "model": "text-embedding-3-small"},
                    _BEARER,
                ),
            ),
            (
                False,
                response(
                    {
                        "object": "list",
                        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -2e-3]}],
                        "model": "text-embedding-3-small",
                        "usage": {"prompt_tokens": 5, "total_tokens": 5},
                    }
                ),
            ),
        ],
        {
            "api": "openai.embeddings",
            "operation": "embeddings",
            "asked": "text-embedding-3-small",
            "input_tokens": 5,
            "output_tokens": None,
        },
    ),
    Sample(
        "azure",
        [
            (
                True,
                request(
                    "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21",
                    "acme.openai.azure.com",
                    {name: value for name, value in _CHAT.items() if name != "model"},
                    {"api-key": KEY},
                ),
            ),
            (False, response(_CHAT_REPLY)),
        ],
        _CHAT_EXPECTED
        | {
            "provider": "azure.ai.openai",
            "host": "acme.openai.azure.com",
            "asked": "my-gpt",
            "credential": ("api-key", KEY),
        },
    ),
    *(
        Sample(name, _openai(target, host), _CHAT_EXPECTED | {"provider": name, "host": bare})
        for name, target, host, bare in (
            ("groq", "/openai/v1/chat/completions", "api.groq.com", "api.groq.com"),
            ("mistral_ai", "/v1/chat/completions", "api.mistral.ai", "api.mistral.ai"),
            ("deepseek", "/chat/completions", "api.deepseek.com", "api.deepseek.com"),
            ("x_ai", "/v1/chat/completions", "api.x.ai", "api.x.ai"),
            ("openrouter", "/api/v1/chat/completions", "openrouter.ai", "openrouter.ai"),
            ("together_ai", "/v1/chat/completions", "api.together.xyz", "api.together.xyz"),
            ("ollama", "/v1/chat/completions", "localhost:11434", "localhost"),
            ("openai_compatible", "/v1/chat/completions", "vllm.svc:8000", "vllm.svc"),
        )
    ),
    Sample(
        "anthropic",
        [
            (True, request("/v1/messages", "api.anthropic.com", _MESSAGES, _ANTHROPIC_KEY)),
            (False, response(_MESSAGES_REPLY)),
        ],
        _MESSAGES_EXPECTED,
    ),
    Sample(
        "anthropic streamed",
        [
            (
                True,
                request("/v1/messages?beta=true", "api.anthropic.com", _MESSAGES, _ANTHROPIC_KEY),
            ),
            (False, response(_MESSAGES_STREAM, "text/event-stream; charset=utf-8", chunks=40)),
        ],
        _MESSAGES_EXPECTED | {"streamed": True},
    ),
    Sample(
        "anthropic overloaded in its stream",
        [
            (True, request("/v1/messages", "api.anthropic.com", _MESSAGES, _ANTHROPIC_KEY)),
            (
                False,
                response(
                    sse(
                        {
                            "type": "error",
                            "error": {"type": "overloaded_error", "message": REPLY},
                        },
                        names=True,
                    ),
                    "text/event-stream",
                    chunks=40,
                ),
            ),
        ],
        {"status": "error", "error": "overloaded_error", "http_status": 200},
    ),
    Sample(
        "gemini",
        [
            (True, request(f"{_GOOGLE_MODEL}:generateContent?key={KEY}", _GOOGLE_HOST, _GEMINI)),
            (False, response(_GEMINI_LAST)),
        ],
        _GEMINI_EXPECTED | {"credential": ("query key", KEY)},
    ),
    Sample(
        "gemini streamed",
        [
            (
                True,
                request(
                    f"{_GOOGLE_MODEL}:streamGenerateContent?alt=sse",
                    _GOOGLE_HOST,
                    _GEMINI,
                    {"x-goog-api-key": KEY},
                ),
            ),
            (
                False,
                response(
                    sse(_gemini_piece([{"text": REPLY}]), _GEMINI_LAST).replace(b"\n", b"\r\n"),
                    "text/event-stream",
                    chunks=90,
                ),
            ),
        ],
        _GEMINI_EXPECTED | {"streamed": True, "credential": ("x-goog-api-key", KEY)},
    ),
    Sample(
        "gemini streamed as an array",
        [
            (True, request(f"{_GOOGLE_MODEL}:streamGenerateContent", _GOOGLE_HOST, _GEMINI)),
            (
                False,
                response(
                    json.dumps([_gemini_piece([{"text": REPLY}]), _GEMINI_LAST], indent=2).encode(),
                    chunks=90,
                ),
            ),
        ],
        _GEMINI_EXPECTED | {"streamed": True},
    ),
    Sample(
        "gemini refuses",
        [
            (True, request(f"{_GOOGLE_MODEL}:generateContent", _GOOGLE_HOST, _GEMINI)),
            (
                False,
                response(
                    {"error": {"code": 429, "message": PROMPT, "status": "RESOURCE_EXHAUSTED"}},
                    status="429 Too Many Requests",
                ),
            ),
        ],
        {"status": "error", "error": "RESOURCE_EXHAUSTED", "http_status": 429},
    ),
    Sample(
        "vertex",
        [
            (
                True,
                request(
                    "/v1/projects/p/locations/us-central1/publishers/google/models/"
                    "gemini-2.5-flash:generateContent",
                    "us-central1-aiplatform.googleapis.com",
                    _GEMINI,
                    _BEARER,
                ),
            ),
            (False, response(_GEMINI_LAST)),
        ],
        _GEMINI_EXPECTED | {"provider": "gcp.vertex_ai", "credential": ("bearer", KEY)},
    ),
    Sample(
        "anthropic at vertex",
        [
            (
                True,
                request(
                    "/v1/projects/p/locations/global/publishers/anthropic/models/"
                    "claude-sonnet-4-5:streamRawPredict",
                    "aiplatform.googleapis.com",
                    {name: value for name, value in _MESSAGES.items() if name != "model"},
                    _BEARER,
                ),
            ),
            (False, response(_MESSAGES_STREAM, "text/event-stream", chunks=60)),
        ],
        _MESSAGES_EXPECTED
        | {
            "provider": "gcp.vertex_ai",
            "api": "anthropic.vertex",
            "host": "aiplatform.googleapis.com",
            "streamed": True,
            "credential": ("bearer", KEY),
        },
    ),
    Sample(
        "bedrock converse",
        [
            (True, request(f"{_BEDROCK_MODEL}/converse", _BEDROCK_HOST, _CONVERSE, _SIGV4)),
            (False, response(_CONVERSE_REPLY)),
        ],
        _BEDROCK_EXPECTED
        | {"api": "bedrock.converse", "input_tokens": 17, "output_tokens": 3, "cached_tokens": 10},
    ),
    Sample(
        "bedrock converse streamed",
        [
            (True, request(f"{_BEDROCK_MODEL}/converse-stream", _BEDROCK_HOST, _CONVERSE, _SIGV4)),
            (False, response(_CONVERSE_STREAM, _EVENT_STREAM, chunks=64)),
        ],
        _BEDROCK_EXPECTED | {"streamed": True, "input_tokens": 17, "output_tokens": 3},
    ),
    Sample(
        "bedrock invoke streamed",
        [
            (
                True,
                request(
                    f"{_BEDROCK_MODEL}/invoke-with-response-stream",
                    _BEDROCK_HOST,
                    {name: value for name, value in _MESSAGES.items() if name != "model"},
                    _SIGV4,
                ),
            ),
            (False, response(_INVOKE_STREAM, _EVENT_STREAM, chunks=64)),
        ],
        _BEDROCK_EXPECTED | {"api": "bedrock.invoke", "streamed": True, "output_tokens": 6},
    ),
    Sample(
        "bedrock invoke, another maker's model",
        [
            (
                True,
                request(
                    "/model/meta.llama3-70b-instruct-v1%3A0/invoke",
                    _BEDROCK_HOST,
                    {"prompt": PROMPT, "max_gen_len": 10},
                    _SIGV4,
                ),
            ),
            (
                False,
                response(
                    {"generation": REPLY, "stop_reason": "stop"},
                    headers={
                        "X-Amzn-Bedrock-Input-Token-Count": "31",
                        "X-Amzn-Bedrock-Output-Token-Count": "17",
                    },
                ),
            ),
        ],
        {
            "asked": "meta.llama3-70b-instruct-v1:0",
            "input_tokens": 31,
            "output_tokens": 17,
            "finish": ("stop",),
        },
    ),
    Sample(
        "bedrock throttles in its stream",
        [
            (True, request(f"{_BEDROCK_MODEL}/converse-stream", _BEDROCK_HOST, _CONVERSE, _SIGV4)),
            (
                False,
                response(
                    event_frame(
                        {"message": REPLY},
                        exception_type="throttlingException",
                        message_type="exception",
                    ),
                    _EVENT_STREAM,
                ),
            ),
        ],
        {"status": "error", "error": "throttlingException", "http_status": 200},
    ),
    Sample(
        "bedrock denies",
        [
            (True, request(f"{_BEDROCK_MODEL}/converse", _BEDROCK_HOST, _CONVERSE, _SIGV4)),
            (
                False,
                response(
                    {"message": PROMPT},
                    status="403 Forbidden",
                    headers={"x-amzn-ErrorType": "AccessDeniedException:http://internal/"},
                ),
            ),
        ],
        {"status": "error", "error": "AccessDeniedException", "http_status": 403},
    ),
    Sample(
        "cohere",
        [
            (True, request("/v2/chat", "api.cohere.com", _COHERE, _BEARER)),
            (
                False,
                response(
                    {
                        "id": "c1",
                        "finish_reason": "TOOL_CALL",
                        "message": {
                            "role": "assistant",
                            "tool_plan": REPLY,
                            "tool_calls": [{"id": "t", "function": {"name": "weather"}}],
                        },
                        **_COHERE_USAGE,
                    }
                ),
            ),
        ],
        _COHERE_EXPECTED | {"streamed": False},
    ),
    Sample(
        "cohere streamed",
        [
            (True, request("/v2/chat", "api.cohere.com", _COHERE, _BEARER)),
            (False, response(_COHERE_STREAM, "text/event-stream", chunks=33)),
        ],
        _COHERE_EXPECTED | {"streamed": True},
    ),
    Sample(
        "ollama streamed",
        [
            (True, request("/api/chat", "127.0.0.1:11434", _OLLAMA)),
            (False, response(_OLLAMA_STREAM, "application/x-ndjson", chunks=100)),
        ],
        _OLLAMA_EXPECTED | {"streamed": True, "port": 11434, "host": "127.0.0.1"},
    ),
    Sample(
        "ollama behind a name of its own",
        [
            (True, request("/api/chat", "llm.internal", _OLLAMA | {"stream": False})),
            (
                False,
                response(
                    _ollama_line(
                        _OLLAMA_CALL, True, done_reason="stop", prompt_eval_count=26, eval_count=12
                    )
                ),
            ),
        ],
        _OLLAMA_EXPECTED | {"streamed": False},
    ),
)

# --- MCP ----------------------------------------------------------------------------------------


def _call(ident: Any, name: str = "read_file", **more: Any) -> dict[str, Any]:
    """Key order as both official SDKs write it."""
    params = {"name": name, "arguments": {"path": PROMPT, "id": 99, "method": "x"}}
    return {"method": "tools/call", "params": params, "jsonrpc": "2.0", "id": ident, **more}


def _result(ident: Any, failed: bool = False) -> dict[str, Any]:
    content = [{"type": "text", "text": REPLY}]
    return {
        "result": {"content": content, "structuredContent": {"id": 98}, "isError": failed},
        "jsonrpc": "2.0",
        "id": ident,
    }


def _lines(*messages: Any) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "client-x", "version": "1"},
    },
}
_INITIALIZED = {
    "jsonrpc": "2.0",
    "id": 0,
    "result": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "server-x", "version": "1"},
    },
}
_ENDED = {"name": "read_file", "id": 1, "status": "ok", "error": "", "problems": ()}
_SESSION = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": "planted-session"}

TOOLS: tuple[Sample, ...] = (
    Sample(
        "lines",
        [
            (True, _lines(_INITIALIZE)),
            (False, _lines(_INITIALIZED)),
            (True, _lines({"jsonrpc": "2.0", "method": "notifications/initialized"}, _call(1))),
            (False, b"a server's stray log line {\n" + _lines(_result(1))),
        ],
        _ENDED
        | {
            "server": "server-x",
            "client": "client-x",
            "protocol": "2025-06-18",
        },
    ),
    Sample(
        "lines, the tool fails",
        [(True, _lines(_call("a"))), (False, _lines(_result("a", failed=True)))],
        {"id": "a", "status": "error", "error": "tool_error"},
    ),
    Sample(
        "lines, refused",
        [
            (True, _lines(_call(7))),
            (
                False,
                _lines({"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": PROMPT}}),
            ),
        ],
        {"id": 7, "status": "error", "error": "-32602"},
    ),
    Sample(
        "lines, cancelled",
        [
            (True, _lines(_call(7))),
            (
                True,
                _lines(
                    {
                        "jsonrpc": "2.0",
                        "method": "notifications/cancelled",
                        "params": {"requestId": 7, "reason": PROMPT},
                    }
                ),
            ),
        ],
        {"id": 7, "status": "cancelled"},
    ),
    Sample(
        "http, json",
        [
            (True, request("/mcp", "127.0.0.1:8000", _call(1), _SESSION)),
            (False, response(_result(1))),
        ],
        _ENDED | {"session": "planted-session", "transport": "tcp"},
    ),
    Sample(
        "http, event stream",
        [
            (True, request("/mcp", "127.0.0.1:8000", _call(1), _SESSION)),
            (
                False,
                response(
                    b": ping\r\n\r\n"
                    + sse(
                        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}},
                        {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage"},
                        _result(1),
                    ),
                    "text/event-stream",
                    chunks=77,
                ),
            ),
        ],
        _ENDED,
    ),
    Sample(
        "http, a batch",
        [
            (True, request("/mcp", "127.0.0.1:8000", [_call(1)], _SESSION)),
            (False, response([_result(1)])),
        ],
        _ENDED,
    ),
    Sample(
        "http, stateless, headers that differ",
        [
            (
                True,
                request(
                    "/mcp",
                    "127.0.0.1:8000",
                    _call(1),
                    _SESSION | {"Mcp-Method": "tools/call", "Mcp-Name": "something_else"},
                ),
            ),
            (False, response(_result(1))),
        ],
        _ENDED | {"problems": ("header",)},
    ),
    Sample(
        "http, refused",
        [
            (True, request("/mcp", "127.0.0.1:8000", _call(1), _SESSION)),
            (False, response(b"no", "text/plain", status="401 Unauthorized")),
        ],
        {"status": "error", "error": "401"},
    ),
    Sample(
        "http, answered on the stream of a get",
        [
            (True, request("/mcp", "127.0.0.1:8000", _call(1), _SESSION)),
            (False, response(b"", "text/event-stream", chunks=9)),
            (True, request("/mcp", "127.0.0.1:8000", b"", _SESSION, method="GET")),
            (False, response(sse(_result(1)), "text/event-stream", chunks=9)),
        ],
        _ENDED,
    ),
)
