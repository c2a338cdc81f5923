"""Whose host, which key, and how a model's call is told to everything else."""

from __future__ import annotations

import base64

import pytest

from hullwatch.agent import semconv
from hullwatch.agent.models.apis import APIS, find
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.models.credential import NONE, Credential, credential
from hullwatch.agent.models.providers import PROVIDERS, provider_of
from hullwatch.agent.wire.http import Head
from hullwatch.agent.wire.mcp import ToolCall
from hullwatch.context.call import MAX_ATTRIBUTES, MAX_TEXT


@pytest.mark.parametrize(
    ("host", "port", "provider"),
    [
        ("api.openai.com", 443, "openai"),
        ("eu.api.openai.com", 443, "openai"),
        ("api.openai.com.evil.example", 443, ""),
        ("xapi.openai.com", 443, ""),
        ("acme.openai.azure.com", 443, "azure.ai.openai"),
        ("bedrock-runtime.eu-central-1.amazonaws.com", 443, "aws.bedrock"),
        ("bedrock-runtime.evil.com/.amazonaws.com", 443, ""),
        ("europe-west4-aiplatform.googleapis.com", 443, "gcp.vertex_ai"),
        ("localhost", 11434, "ollama"),
        ("localhost", 8000, ""),
    ],
)
def test_whose_host_it_is(host, port, provider):
    assert provider_of(host, port) == provider


def test_no_host_is_two_providers():
    hosts = [host for row in PROVIDERS for host in row.hosts]
    assert len(hosts) == len(set(hosts))
    for host in hosts:
        example = host.replace("*", "x")
        assert provider_of(example, 0) == next(r.name for r in PROVIDERS if host in r.hosts)


@pytest.mark.parametrize(
    ("path", "api", "model"),
    [
        ("/v1/chat/completions", "openai.chat", ""),
        ("/chat/completions", "openai.chat", ""),
        ("/openai/deployments/a%20b/chat/completions", "openai.chat", "a b"),
        ("/openai/v1/responses", "openai.responses", ""),
        ("/v1/responses/resp_1", None, ""),
        ("/responses", None, ""),
        ("/openai/deployments/d/embeddings", "openai.embeddings", "d"),
        ("/api/v1/messages", "anthropic.messages", ""),
        ("/v1/messages/count_tokens", None, ""),
        ("/v1beta/models/gemini-x:streamGenerateContent", "google.generate", "gemini-x"),
        ("/v1beta/models/gemini-x:countTokens", None, ""),
        ("/model/arn%3Aaws%3Ax%3A%2Fy/converse-stream", "bedrock.converse", "arn:aws:x:/y"),
        ("/api/embeddings", "ollama.embed", ""),
        ("/", None, ""),
        ("x" * 100_000, None, ""),
        ("/v1/messages" + "/v1/messages" * 1000, None, ""),
    ],
)  # fmt: skip
def test_which_api_a_path_is_of(path, api, model):
    found = find(path)
    assert (found and (found[0].name, found[1])) == (api and (api, model))


def test_rows_have_names_of_their_own():
    assert len({api.name for api in APIS}) == len(APIS)


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({}, "", NONE),
        ({"authorization": "Bearer  sk-1 "}, "", Credential("bearer", "<sk-1>")),
        ({"authorization": "bearer sk-1"}, "", Credential("bearer", "<sk-1>")),
        ({"authorization": "sk-1"}, "", Credential("authorization", "<sk-1>")),
        ({"x-api-key": "sk-1"}, "", Credential("x-api-key", "<sk-1>")),
        ({"api-key": "sk-1"}, "", Credential("api-key", "<sk-1>")),
        ({}, "alt=sse&key=sk%2D1", Credential("query key", "<sk-1>")),
        (
            {"authorization": "Basic " + base64.b64encode(b"user:sk-1").decode()},
            "",
            Credential("basic", "<sk-1>"),
        ),
        ({"authorization": "Basic ???"}, "", Credential("basic", "<???>")),
        (
            {"authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2025/x, S=y"},
            "",
            Credential("sigv4", "<AKIAIOSFODNN7EXAMPLE>"),
        ),
    ],
)
def test_one_key_has_one_hash_however_it_is_sent(headers, query, expected):
    head = Head(method="POST", target="/", headers=headers)
    assert credential(head, query, lambda key: f"<{key}>") == expected


def test_a_models_call_is_told_in_words_of_otel():
    call = ModelCall(
        provider="openai",
        api="openai.chat",
        operation="chat",
        host="api.openai.com",
        asked="gpt-4o",
        answered="gpt-4o-1",
        offered=tuple(f"tool_{n:03}" for n in range(128)),
        chosen=("tool_001",),
        input_tokens=0,
        finish=("stop", "length"),
        streamed=True,
        begin=5,
        end=9,
        http_status=200,
        credential=Credential("bearer", "h"),
        partial=True,
    ).to_call(77, pid=4)
    assert (call.id, call.kind, call.source, call.name, call.server) == (
        77,
        "model",
        "tap",
        "gpt-4o",
        "openai",
    )
    said = call.attributes
    assert said[semconv.REQUEST_MODEL] == "gpt-4o" and said[semconv.RESPONSE_MODEL] == "gpt-4o-1"
    assert said[semconv.INPUT_TOKENS] == 0 and semconv.OUTPUT_TOKENS not in said
    assert said[semconv.FINISH_REASONS] == "stop,length"
    assert said[semconv.PROBLEMS] == "partial" and said[semconv.API_KEY_HASH] == "h"
    offered = said[semconv.TOOLS_OFFERED].split(",")
    assert int(offered[-1]) == 128 - (len(offered) - 1) and offered[0] == "tool_000"
    assert len(said) <= MAX_ATTRIBUTES
    assert all(len(value) <= MAX_TEXT for value in said.values() if isinstance(value, str))


def test_a_tools_call_is_told_in_words_of_otel():
    call = ToolCall(
        key=1, id=3, name="read_file", role="server", transport="pipe", begin=5, end=9,
        status="error", error="-32602", session="h", problems=("cut", "header"),
    ).to_call(78)  # fmt: skip
    assert (call.id, call.kind, call.name, call.status) == (78, "tool", "read_file", "error")
    assert call.attributes == {
        semconv.OPERATION: "execute_tool",
        semconv.MCP_METHOD: "tools/call",
        semconv.TOOL_NAME: "read_file",
        semconv.NETWORK_TRANSPORT: "pipe",
        semconv.JSONRPC_ID: "3",
        semconv.SESSION_HASH: "h",
        semconv.PROBLEMS: "cut,header",
        semconv.ERROR_TYPE: "-32602",
    }
