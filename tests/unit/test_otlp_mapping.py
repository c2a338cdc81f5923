"""Spans of frameworks as calls: whose names they use does not matter."""

from __future__ import annotations

import pytest

from hullwatch.agent.otlp import wire
from hullwatch.agent.otlp.mapping import id_of, received, where_of
from hullwatch.agent.otlp.names import KEPT, RESOURCE, WANTED
from hullwatch.agent.otlp.received import Peer, Where
from hullwatch.context.call import MAX_ATTRIBUTES
from support.otlp import BEGIN, MS, SPAN, TRACE, as_protobuf, export, span

IDS = {"hullwatch.trace.id": TRACE, "hullwatch.span.id": SPAN}


def calls(*spans, resource=None, peer=None):
    read = wire.read(as_protobuf(export(*spans, resource=resource)), WANTED, RESOURCE)
    assert not read.rejected
    return received(read.spans, *([peer] if peer else []))


def call(name="span", /, resource=None, **more):
    (one,) = calls(span(name, **more), resource=resource)
    return one.call


def test_a_tool_call_of_the_conventions():
    one = call(
        "execute_tool read_file",
        resource={"service.name": "coder"},
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "read_file",
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.type": "function",
        },
    )
    assert (one.kind, one.source, one.name, one.status) == ("tool", "otlp", "read_file", "ok")
    assert (one.begin, one.end, one.client) == (BEGIN, BEGIN + 5 * MS, "coder")
    assert one.id == int(SPAN, 16) & (1 << 63) - 1 and one.parent == 0
    assert one.attributes == IDS | {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read_file",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.type": "function",
    }


def test_a_model_call_of_the_conventions():
    one = call(
        "chat gpt-5",
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.response.model": "gpt-5-2026-01",
            "gen_ai.usage.input_tokens": 12,
            "server.address": "api.openai.com",
            "server.port": 443,
        },
    )
    assert (one.kind, one.name, one.server) == ("model", "gpt-5", "openai")
    assert one.attributes["gen_ai.usage.input_tokens"] == 12
    assert one.attributes["server.port"] == 443


def test_a_call_of_an_mcp_server():
    one = call(
        "tools/call add",
        attributes={
            "mcp.method.name": "tools/call",
            "mcp.session.id": "s",
            "gen_ai.tool.name": "add",
            "jsonrpc.request.id": "7",
            "server.address": "mcp.local",
        },
    )
    assert (one.kind, one.name, one.server) == ("tool", "add", "mcp.local")
    assert one.attributes["jsonrpc.request.id"] == "7"


OTHERS = [
    # OpenInference (Arize, Phoenix)
    ({"openinference.span.kind": "TOOL", "tool.name": "grep"}, "tool", "grep", ""),
    (
        {
            "openinference.span.kind": "LLM",
            "llm.model_name": "claude-x",
            "llm.provider": "anthropic",
            "llm.token_count.prompt": 3,
        },
        "model",
        "claude-x",
        "anthropic",
    ),
    ({"openinference.span.kind": "AGENT", "agent.name": "planner"}, "task", "planner", ""),
    ({"openinference.span.kind": "EMBEDDING", "embedding.model_name": "e"}, "model", "e", ""),
    # Traceloop, OpenLLMetry
    ({"traceloop.span.kind": "tool", "traceloop.entity.name": "grep"}, "tool", "grep", ""),
    (
        {
            "llm.request.type": "chat",
            "gen_ai.system": "OpenAI",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.usage.prompt_tokens": 3,
        },
        "model",
        "gpt-5",
        "openai",
    ),
    ({"traceloop.span.kind": "workflow", "traceloop.entity.name": "w"}, "task", "w", ""),
    # Langfuse
    ({"langfuse.observation.type": "tool"}, "tool", "the span", ""),
    (
        {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "m"},
        "model",
        "m",
        "",
    ),
    # Vercel's AI SDK
    ({"ai.operationId": "ai.toolCall", "ai.toolCall.name": "grep"}, "tool", "grep", ""),
    (
        {
            "ai.operationId": "ai.streamText.doStream",
            "ai.model.id": "gpt-5",
            "ai.model.provider": "openai.responses",
            "ai.usage.promptTokens": 3.0,
        },
        "model",
        "gpt-5",
        "openai",
    ),
    ({"ai.operationId": "ai.generateText"}, "task", "the span", ""),
    # The conventions as they were
    (
        {"gen_ai.operation.name": "chat", "gen_ai.system": "az.ai.openai", "gen_ai.usage.x": 1},
        "model",
        "the span",
        "azure.ai.openai",
    ),
    ({"gen_ai.tool.name": "grep"}, "tool", "grep", ""),
    ({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"}, "task", "a", ""),
    ({"mcp.method.name": "resources/read"}, "task", "resources/read", ""),
]


@pytest.mark.parametrize(("attributes", "kind", "name", "server"), OTHERS)
def test_other_names_for_the_same(attributes, kind, name, server):
    one = call("the span", attributes=attributes)
    assert (one.kind, one.name, one.server) == (kind, name, server)
    tokens = one.attributes.get("gen_ai.usage.input_tokens")
    assert tokens == (3 if 3 in attributes.values() else None)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"http.request.method": "POST", "server.address": "x"},
        {"mcp.method.name": "tools/list"},
        {"mcp.method.name": "notifications/progress"},
        {"openinference.span.kind": "PROMPT"},
        {"gen_ai.operation.name": 7},
        {"gen_ai.request.model": "m"},
    ],
)
def test_spans_that_are_no_calls(attributes):
    assert calls(span(attributes=attributes)) == []


def test_the_conventions_count_before_other_names():
    one = call(
        attributes={
            "openinference.span.kind": "CHAIN",
            "gen_ai.operation.name": "execute_tool",
            "tool.name": "old",
            "gen_ai.tool.name": "new",
        }
    )
    assert (one.kind, one.name) == ("tool", "new")


def test_a_value_of_the_wrong_type_gives_way_to_another_name():
    one = call(
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": "many",
            "gen_ai.usage.prompt_tokens": "12",
            "gen_ai.usage.output_tokens": 1.5,
            "gen_ai.request.stream": "yes",
            "gen_ai.response.time_to_first_chunk": True,
        }
    )
    kept = one.attributes
    assert kept["gen_ai.usage.input_tokens"] == 12
    assert "gen_ai.usage.output_tokens" not in kept
    assert "gen_ai.request.stream" not in kept
    assert "gen_ai.response.time_to_first_chunk" not in kept


@pytest.mark.parametrize(
    ("said", "failed", "status", "error"),
    [
        ("timeout", True, "error", "timeout"),
        ("openai.RateLimitError", False, "error", "openai.RateLimitError"),
        ("429", True, "error", "429"),
        ("the user said: my password is x", True, "error", "error"),
        ("asyncio.CancelledError", True, "cancelled", "asyncio.CancelledError"),
        ("", True, "error", "error"),
        ("", False, "ok", ""),
    ],
)
def test_an_error_is_a_word(said, failed, status, error):
    attributes = {"gen_ai.operation.name": "chat"} | ({"error.type": said} if said else {})
    one = call(error=failed, attributes=attributes)
    assert (one.status, one.error) == (status, error)
    assert one.attributes.get("error.type", "") == error


TOOL = {"gen_ai.operation.name": "execute_tool"}


def test_the_parent_is_the_nearest_call():
    ids = [f"{number:016x}" for number in range(1, 6)]
    found = calls(
        span("agent", ident=ids[0], attributes={"gen_ai.operation.name": "invoke_agent"}),
        span("http", ident=ids[1], parent=ids[0]),
        span("http", ident=ids[2], parent=ids[1]),
        span("tool", ident=ids[3], parent=ids[2], attributes=TOOL),
        span("tool", ident=ids[4], parent="00000000000000aa", attributes=TOOL),
    )
    assert [(one.call.id, one.call.parent) for one in found] == [(1, 0), (4, 1), (5, 0xAA)]
    assert found[1].call.attributes["hullwatch.parent_span.id"] == ids[0]


def test_parents_in_a_circle_are_none():
    first, second, third = (f"{number:016x}" for number in range(1, 4))
    found = calls(
        span(ident=first, parent=second),
        span(ident=second, parent=first),
        span(ident=third, parent=first, attributes=TOOL),
    )
    assert [(one.call.id, one.call.parent) for one in found] == [(3, 0)]


def test_ids_have_63_bits():
    assert id_of(b"\xff" * 8) == (1 << 63) - 1
    assert id_of(b"\x80" + bytes(7)) == 1
    assert id_of(b"") == 0


def test_where_it_ran():
    resource = {
        "process.pid": 7,
        "container.id": "c" * 64,
        "k8s.pod.uid": "u",
        "host.name": "h",
        "service.name": "s",
    }
    (one,) = calls(span(attributes=TOOL), resource=resource)
    assert one.where == Where(pid=7, container_id="c" * 64, pod_uid="u", host="h", service="s")
    assert one.call.pid == 0


@pytest.mark.parametrize(
    ("said", "peer", "pid"),
    [
        ({}, Peer(pid=400, inner_pid=7), 400),
        ({"process.pid": 7}, Peer(pid=400, inner_pid=7), 400),
        ({"process.pid": 400}, Peer(pid=400, inner_pid=400), 400),
        ({"process.pid": 8}, Peer(pid=400, inner_pid=7), 0),  # through a collector
        ({"process.pid": 7}, Peer(address="127.0.0.1", port=1), 0),
    ],
)
def test_the_pid_is_the_peers_only_if_it_speaks_for_itself(said, peer, pid):
    (one,) = calls(span(attributes=TOOL), resource=said, peer=peer)
    assert (one.call.pid, one.where.host_pid, one.where.peer) == (pid, pid, peer)


@pytest.mark.parametrize("pid", [0, -1, 1 << 40, True, "x", 1.5])
def test_a_pid_that_is_none(pid):
    assert where_of({"process.pid": pid}).pid == 0


@pytest.mark.parametrize("ident", ["a/b", "../x", "a b", "\n", "x" * 200])
def test_a_container_id_that_is_none(ident):
    assert where_of({"container.id": ident}).container_id == ""


def test_a_call_holds_no_more_attributes_than_it_may():
    assert len(KEPT) + 3 <= MAX_ATTRIBUTES
