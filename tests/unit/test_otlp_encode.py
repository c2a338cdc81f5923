"""Calls, signals and findings as OTLP, read back by the official definitions."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullwatch.agent.otlp import wire
from hullwatch.agent.otlp.encode import SEVERITY, logs_of, spans_of, trace_of
from hullwatch.agent.otlp.mapping import received
from hullwatch.agent.otlp.names import RESOURCE, WANTED
from hullwatch.context.call import AMBIGUOUS, Call, Signal
from support.otlp import BEGIN, MS, SPAN, TRACE, as_protobuf, export, span

CALL = Call(
    id=0xAB,
    kind="tool",
    source="gateway",
    name="read_file",
    begin=BEGIN,
    end=BEGIN + MS,
    status="error",
    error="timeout",
    server="files",
    client="coder",
    parent=0xA,
    pid=41,
    request_bytes=10,
    response_bytes=20,
    attributes={"mcp.method.name": "tools/call", "gen_ai.usage.input_tokens": 7, "x.f": 0.5},
)
MODEL = Call(
    id=5,
    kind="model",
    source="tap",
    name="gpt-5",
    server="openai",
    begin=BEGIN,
    end=BEGIN + MS,
    status="ok",
    attributes={"hullwatch.streamed": True},
)
FINDING = {
    "id": "f1",
    "time": BEGIN + 5,
    "first": BEGIN + 5,
    "last": BEGIN + 9 * MS,
    "rule": "Read of a secret",
    "priority": "CRITICAL",
    "severity": 5,
    "output": "cat read /run/secrets/token",
    "tags": ("T1552", "container"),
    "container_full_id": "c" * 64,
    "container_name": "agent",
    "image": "agent:1",
    "pod": "",
    "span": 0xAB,
    "count": 3,
    "processes": [{"pid": 41, "exepath": "/bin/cat", "cmdline": "cat planted"}, {"pid": 1}],
}


@pytest.fixture
def pb():
    """The official messages."""
    trace = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
        reason="needs opentelemetry-proto",
    )
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

    class Messages:
        traces = trace.ExportTraceServiceRequest
        logs = logs_service_pb2.ExportLogsServiceRequest

    return Messages


def plain(pairs):
    """KeyValues as a dict."""
    return {pair.key: value_of(pair.value) for pair in pairs}


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind)


def spans(pb, *arguments, **more):
    request = pb.traces.FromString(spans_of(*arguments, **more))
    (group,) = request.resource_spans
    (scope,) = group.scope_spans
    return plain(group.resource.attributes), list(scope.spans)


def logs(pb, *arguments, **more):
    request = pb.logs.FromString(logs_of(*arguments, **more))
    (group,) = request.resource_logs
    (scope,) = group.scope_logs
    return list(scope.log_records)


def test_a_tool_call_is_a_span(pb):
    resource, (one,) = spans(pb, [CALL], host="node-1")
    assert resource["service.name"] == "hullwatch" and resource["host.name"] == "node-1"
    assert (one.name, one.kind) == ("tools/call read_file", 3)
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (BEGIN, BEGIN + MS)
    assert (one.span_id, one.parent_span_id) == (bytes(7) + b"\xab", bytes(7) + b"\x0a")
    assert len(one.trace_id) == 16 and any(one.trace_id)
    assert (one.status.code, one.status.message) == (2, "")
    assert plain(one.attributes) == {
        "mcp.method.name": "tools/call",
        "gen_ai.usage.input_tokens": 7,
        "x.f": 0.5,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read_file",
        "hullwatch.server": "files",
        "error.type": "timeout",
        "process.pid": 41,
        "hullwatch.call.id": "00000000000000ab",
        "hullwatch.source": "gateway",
        "hullwatch.status": "error",
        "hullwatch.client": "coder",
        "hullwatch.request.bytes": 10,
        "hullwatch.response.bytes": 20,
    }


def test_a_model_call_is_a_span(pb):
    _, (one,) = spans(pb, [MODEL])
    said = plain(one.attributes)
    assert (one.name, one.kind, one.status.code) == ("chat gpt-5", 3, 0)
    assert (said["gen_ai.provider.name"], said["gen_ai.request.model"]) == ("openai", "gpt-5")
    assert said["hullwatch.streamed"] is True


def test_a_call_that_runs_is_not_sent(pb):
    _, found = spans(pb, [Call(id=1, kind="task", source="context", name="t", begin=BEGIN)])
    assert found == []


def test_calls_made_in_one_another_are_one_trace(pb):
    outer = Call(id=0xA, kind="task", source="context", name="t", begin=BEGIN, end=BEGIN + MS)
    inner = Call(
        id=0xC, kind="tool", source="tap", name="x", begin=BEGIN, end=BEGIN + MS, parent=0xAB
    )
    traces = {}
    for call in (outer, CALL, inner):
        traces[call.id] = trace_of(call, traces)
    _, found = spans(pb, [inner, CALL, outer], traces=traces)
    assert len({one.trace_id for one in found}) == 1
    by_id = {one.span_id: one for one in found}
    assert all(one.parent_span_id in (b"", *by_id) for one in found)


def test_the_ids_of_a_framework_are_its_own(pb):
    tool = span(parent="f" * 16, attributes={"gen_ai.operation.name": "execute_tool"})
    (one,) = received(wire.read(as_protobuf(export(tool)), WANTED, RESOURCE).spans)
    _, (sent,) = spans(pb, [one.call])
    assert (sent.trace_id.hex(), sent.span_id.hex()) == (TRACE, SPAN)
    assert sent.parent_span_id == b"\xff" * 8
    inner = Call(id=9, kind="tool", source="tap", name="x", begin=1, end=2, parent=one.call.id)
    _, (below,) = spans(pb, [inner], traces={one.call.id: trace_of(one.call)})
    assert (below.trace_id.hex(), below.parent_span_id.hex()) == (TRACE, SPAN)


def test_findings_of_a_call_are_its_events(pb):
    _, (one, other) = spans(pb, [CALL, MODEL], findings=[FINDING, FINDING | {"span": 99}])
    (event,) = one.events
    assert (event.name, event.time_unix_nano) == ("hullwatch.finding", BEGIN + 5)
    assert plain(event.attributes) == {
        "finding_info.uid": "f1",
        "finding_info.title": "Read of a secret",
        "severity_id": 5,
    }
    assert not other.events


def test_a_signal_is_a_span_in_its_call(pb):
    signal = Signal(
        kind="tool_changed", subject="read_file", detail="d", time=BEGIN, call=0xAB, held=True
    )
    _, (call, one, lone) = spans(
        pb, [CALL], [signal, Signal(kind="k", subject="s", detail="", time=BEGIN)],
        traces={0xAB: trace_of(CALL)},
    )  # fmt: skip
    assert one.name == "run_guardrail tool_changed"
    assert (one.trace_id, one.parent_span_id) == (call.trace_id, call.span_id)
    said = plain(one.attributes)
    assert said["gen_ai.operation.name"] == "run_guardrail"
    assert said["hullwatch.signal.held"] is True
    assert lone.parent_span_id == b"" and any(lone.trace_id) and any(lone.span_id)


def test_a_finding_is_a_log_record(pb):
    (one,) = logs(pb, [FINDING], traces={0xAB: trace_of(CALL)})
    assert (one.time_unix_nano, one.observed_time_unix_nano) == (BEGIN + 5, BEGIN + 9 * MS)
    assert (one.severity_number, one.severity_text) == (18, "CRITICAL")
    assert one.body.string_value == "cat read /run/secrets/token"
    assert one.event_name == "hullwatch.finding"
    assert (one.trace_id, one.span_id) == trace_of(CALL)
    assert plain(one.attributes) == {
        "category_uid": 2,
        "class_uid": 2004,
        "activity_id": 2,
        "type_uid": 200402,
        "severity_id": 5,
        "finding_info.uid": "f1",
        "finding_info.title": "Read of a secret",
        "finding_info.first_seen_time": (BEGIN + 5) // MS,
        "finding_info.last_seen_time": BEGIN // MS + 9,
        "finding_info.types": ["T1552", "container"],
        "count": 3,
        "container.id": "c" * 64,
        "container.name": "agent",
        "container.image.name": "agent:1",
        "process.pid": 41,
        "process.executable.path": "/bin/cat",
        "hullwatch.call.id": "00000000000000ab",
    }


def test_the_span_of_a_finding_is_the_span_of_its_call(pb):
    """Without anybody remembering it."""
    _, (call,) = spans(pb, [MODEL])
    (one,) = logs(pb, [FINDING | {"span": MODEL.id}])
    assert (one.trace_id, one.span_id) == (call.trace_id, call.span_id)


def test_a_finding_that_may_be_of_several_calls_names_none(pb):
    (one,) = logs(pb, [FINDING | {"span": AMBIGUOUS | 7}])
    assert one.trace_id == one.span_id == b""
    said = plain(one.attributes)
    assert said["hullwatch.call.ambiguous"] is True and "hullwatch.call.id" not in said


def test_severities_rise():
    order = "DEBUG INFORMATIONAL NOTICE WARNING ERROR CRITICAL ALERT EMERGENCY".split()
    numbers = [SEVERITY[name] for name in order]
    assert numbers == sorted(set(numbers)) and len(numbers) == len(SEVERITY)


def test_findings_of_whatever_shape_are_encoded(pb):
    for odd in ({}, {"id": "x", "span": None, "time": None, "processes": ()}, {"time": -1}):
        (one,) = logs(pb, [odd])
        assert one.severity_number == 0


_TEXT = st.text(max_size=30)
_VALUE = st.one_of(
    _TEXT, st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False)
)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.dictionaries(_TEXT, _VALUE, max_size=5), _TEXT, st.integers(1, (1 << 63) - 1))
def test_any_call_is_read_back_as_it_was(pb, attributes, name, ident):
    call = Call(
        id=ident,
        kind="task",
        source="context",
        name=name,
        begin=1,
        end=2,
        attributes={f"x.{key}": value for key, value in attributes.items()},
    )
    _, (one,) = spans(pb, [call])
    said = plain(one.attributes)
    kept = {f"x.{key}": value for key, value in attributes.items() if value != ""}
    assert {key: value for key, value in said.items() if key.startswith("x.")} == kept
    assert int.from_bytes(one.span_id) == ident


def test_our_own_reader_reads_what_we_write():
    read = wire.read(spans_of([CALL, MODEL]), WANTED, RESOURCE)
    assert [one.call.name for one in received(read.spans)] == ["read_file", "gpt-5"]
