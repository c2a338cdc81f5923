"""OTLP exports as spans, in both forms: what is kept, what never is, what is refused."""

from __future__ import annotations

import contextlib
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullwatch.agent.otlp import jsonform, wire
from hullwatch.agent.otlp.inflate import Oversize, inflate
from hullwatch.agent.otlp.mapping import received
from hullwatch.agent.otlp.names import RESOURCE, WANTED
from hullwatch.agent.otlp.span import MAX_TEXT, Limits, Unreadable
from hullwatch.context.protobuf import Fixed64, encode, fields
from support.otlp import BEGIN, MS, SPAN, TRACE, as_json, as_protobuf, export, span

FORMS = {"protobuf": (as_protobuf, wire.read), "json": (as_json, jsonform.read)}
PLANTED = "sk-ant-planted-0451"


@pytest.fixture(params=sorted(FORMS))
def read(request):
    made, reader = FORMS[request.param]
    return lambda value, **limits: reader(made(value), WANTED, RESOURCE, Limits(**limits))


def test_a_span_is_read(read):
    found = read(
        export(
            span(
                "execute_tool add",
                parent="00f067aa0ba902b7",
                error=True,
                attributes={
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.usage.input_tokens": -3,
                    "gen_ai.request.stream": True,
                    "gen_ai.response.time_to_first_chunk": 0.5,
                    "gen_ai.response.finish_reasons": ["stop", "length"],
                    "color": "blue",
                },
            ),
            resource={"process.pid": 41, "service.name": "agent", "service.version": "2"},
        )
    )
    (one,) = found.spans
    assert found.rejected == 0
    assert (one.trace_id.hex(), one.span_id.hex(), one.parent.hex()) == (
        TRACE,
        SPAN,
        "00f067aa0ba902b7",
    )
    assert (one.name, one.kind, one.failed) == ("execute_tool add", 3, True)
    assert (one.begin, one.end) == (BEGIN, BEGIN + 5 * MS)
    assert one.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.usage.input_tokens": -3,
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.response.finish_reasons": "stop,length",
    }
    assert one.skipped == ("color",)
    assert one.resource == {"process.pid": 41, "service.name": "agent"}


# Of the registries that names.py cites: all that may hold content, and some that hide it.
CONTENT = """
gen_ai.input.messages gen_ai.output.messages gen_ai.system_instructions gen_ai.prompt
gen_ai.completion gen_ai.prompt.0.content gen_ai.completion.0.content gen_ai.prompt.name
gen_ai.tool.call.arguments gen_ai.tool.call.result gen_ai.tool.definitions gen_ai.tool.description
gen_ai.agent.description gen_ai.retrieval.documents gen_ai.retrieval.query.text
gen_ai.memory.records gen_ai.memory.query.text gen_ai.evaluation.explanation gen_ai.headers
gen_ai.request.stop_sequences gen_ai.task.input gen_ai.task.output mcp.resource.uri
mcp.request.argument mcp.response.value mcp.session.init_options input.value output.value
llm.input_messages.0.message.content llm.output_messages llm.prompts llm.headers llm.tools
llm.invocation_parameters llm.function_call llm.prompt_template.variables tool.parameters
tool.description tool.json_schema tool_call.function.arguments retrieval.documents
reranker.query embedding.text metadata traceloop.entity.input traceloop.entity.output
traceloop.association.properties langfuse.observation.input langfuse.observation.output
langfuse.trace.metadata ai.prompt ai.prompt.messages ai.response.text ai.response.object
ai.toolCall.args ai.toolCall.input ai.toolCall.result ai.value ai.request.headers.authorization
exception.message exception.stacktrace url.full http.request.header.authorization db.query.text
user.id enduser.id
""".split()


def test_content_is_never_kept(read):
    """Wherever it stands: attributes, the resource, events, the status, structures."""
    attributes = dict.fromkeys(CONTENT, PLANTED)
    attributes |= {f"{name}.nested": {"a": [PLANTED]} for name in CONTENT}
    attributes |= {"gen_ai.tool.name": "read_file", "gen_ai.operation.name": "execute_tool"}
    event = {
        "timeUnixNano": str(BEGIN),
        "name": "gen_ai.content.prompt",
        "attributes": span(attributes={"gen_ai.prompt": PLANTED})["attributes"],
    }
    value = export(
        span(attributes=attributes, events=[event], status={"code": 2, "message": PLANTED}),
        resource={"service.name": "s", "process.command_line": PLANTED, "process.owner": PLANTED},
    )
    found = read(value, attributes=1000)
    assert PLANTED in str(value)
    assert PLANTED not in str(found)
    (one,) = received(found.spans)
    assert PLANTED not in str(one)
    assert (one.call.name, one.call.status, one.call.error) == ("read_file", "error", "error")


def test_no_wanted_name_is_one_of_content():
    assert not set(CONTENT) & WANTED


def test_texts_are_cut(read):
    one = read(export(span("n" * 999, attributes={"gen_ai.tool.name": "t€" * 999}))).spans[0]
    assert one.name == "n" * MAX_TEXT
    assert one.attributes["gen_ai.tool.name"] == ("t€" * 999)[:MAX_TEXT]


def test_structures_are_not_understood(read):
    deep = ["x"]
    for _ in range(50):
        deep = [deep]
    attributes = {"gen_ai.tool.name": {"a": "b"}, "gen_ai.agent.name": deep}
    one = read(export(span(attributes=attributes))).spans[0]
    assert one.attributes == {}
    assert one.skipped == ("gen_ai.tool.name", "gen_ai.agent.name")


@pytest.mark.parametrize(
    "changed",
    [
        {"traceId": ""},
        {"traceId": "00" * 16},
        {"traceId": TRACE + "00"},
        {"traceId": TRACE[2:]},
        {"spanId": ""},
        {"spanId": "00" * 8},
        {"spanId": SPAN + "00"},
        {"parentSpanId": SPAN + "00"},
        {"startTimeUnixNano": "0"},
        {"endTimeUnixNano": "0"},
        {"endTimeUnixNano": str(BEGIN - 1)},
        {"endTimeUnixNano": str(1 << 63)},
    ],
)
def test_a_span_that_makes_no_sense_is_rejected_alone(read, changed):
    found = read(export(span() | changed, span("good")))
    assert [one.name for one in found.spans] == ["good"]
    assert found.rejected == 1


def test_a_parent_of_zeros_is_none(read):
    assert read(export(span(parent="00" * 8))).spans[0].parent == b""


def test_spans_over_the_limit_are_rejected(read):
    found = read(export(*(span(str(number)) for number in range(7))), spans=5)
    assert [one.name for one in found.spans] == list("01234")
    assert found.rejected == 2


def test_attributes_over_the_limit_are_counted(read):
    attributes = {f"a{number}": 1 for number in range(9)} | {"gen_ai.tool.name": "x"}
    one = read(export(span(attributes=attributes)), attributes=4).spans[0]
    assert one.attributes == {}
    assert (one.skipped, one.uncounted) == (("a0", "a1", "a2", "a3"), 6)


def test_an_empty_export_is_one(read):
    assert read({"resourceSpans": []}).spans == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05\x12",
        b"\x0b",
        b"\xff" * 11,
        b"\x08\x01",
        b"\x0a\x02\x10\x01",
        encode({1: {2: {2: {7: 5}}}}),  # a time as a varint
        encode({1: {2: {2: {1: 5}}}}),  # an id as a varint
        encode({1: {2: {2: {9: 5}}}}),
        encode({1: {2: {2: {15: Fixed64(5)}}}})[:-1],
    ],
)
def test_protobuf_that_is_none(data):
    with pytest.raises(Unreadable, match="protobuf: "):
        wire.read(data, WANTED, RESOURCE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"resourceSpans": 1}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [{"key": 1}]}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "\xff"}]}]}]}',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_json_that_is_none(data):
    with pytest.raises(Unreadable, match="JSON: "):
        jsonform.read(data, WANTED, RESOURCE)


def test_json_of_too_many_objects_is_refused_before_it_is_read():
    data = b'{"resourceSpans": [' + b"{}," * 200 + b"{}]}"
    with pytest.raises(Unreadable, match="more than 100 objects"):
        jsonform.read(data, WANTED, RESOURCE, Limits(objects=100))


def test_json_numbers_may_be_texts_or_numbers():
    value = export(span(attributes={"gen_ai.usage.input_tokens": 7}))
    one = value["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    one |= {"startTimeUnixNano": BEGIN, "endTimeUnixNano": str(BEGIN + 1)}
    one["attributes"][0]["value"] = {"intValue": 7}
    (found,) = jsonform.read(as_json(value), WANTED, RESOURCE).spans
    assert (found.begin, found.end) == (BEGIN, BEGIN + 1)
    assert found.attributes == {"gen_ai.usage.input_tokens": 7}


@pytest.mark.parametrize("number", ["9" * 5000, "1_0", "٣", " 1", "1e3", "", "--1"])
def test_json_numbers_that_are_none(number):
    value = export(span() | {"startTimeUnixNano": number})
    assert jsonform.read(as_json(value), WANTED, RESOURCE).rejected == 1


def test_gzip_as_far_as_the_limit():
    data = b"x" * 1000
    packed = gzip.compress(data)
    assert inflate(packed, 1000) == data
    with pytest.raises(Oversize, match="more than 999 bytes"):
        inflate(packed, 999)
    for broken in (b"", packed[:-1], packed + b"x", packed + packed, b"plain", data):
        with pytest.raises(Unreadable, match="gzip"):
            inflate(broken, 5000)


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
_VALUES = st.one_of(
    _TEXTS,
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(_TEXTS, max_size=4),
)
_NAMES = st.one_of(st.sampled_from(sorted(WANTED)), _TEXTS)
_SPANS = st.builds(
    span,
    _TEXTS,
    ident=st.binary(min_size=7, max_size=9).map(bytes.hex),
    parent=st.sampled_from(["", SPAN, "00" * 8]),
    attributes=st.dictionaries(_NAMES, _VALUES, max_size=6),
    error=st.booleans(),
    begin=st.integers(0, (1 << 64) - 1),
    end=st.integers(0, (1 << 64) - 1),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_SPANS, max_size=3), st.dictionaries(_NAMES, _VALUES, max_size=3))
def test_both_forms_say_the_same(spans, resource):
    value = export(*spans, resource=resource)
    assert wire.read(as_protobuf(value), WANTED, RESOURCE) == jsonform.read(
        as_json(value), WANTED, RESOURCE
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_SPANS, min_size=1, max_size=2), st.data())
def test_broken_protobuf_is_read_or_refused(spans, data):
    whole = bytearray(as_protobuf(export(*spans)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    with contextlib.suppress(Unreadable):
        received(wire.read(bytes(whole), WANTED, RESOURCE).spans)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_SPANS, min_size=1, max_size=2), st.data())
def test_broken_json_is_read_or_refused(spans, data):
    whole = bytearray(as_json(export(*spans)))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Unreadable):
        received(jsonform.read(bytes(whole), WANTED, RESOURCE).spans)


_FIELDS = st.recursive(
    st.one_of(
        _TEXTS,
        st.binary(max_size=20),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.integers(0, (1 << 64) - 1).map(Fixed64),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.dictionaries(st.integers(1, 40), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.integers(1, (1 << 29) - 1), _FIELDS, max_size=5))
def test_what_is_encoded_has_the_fields_that_were_given(message):
    found = list(fields(memoryview(encode(message))))
    assert [number for number, _, _ in found] == list(message)
    for (_, kind, value), given_value in zip(found, message.values(), strict=True):
        if isinstance(given_value, Fixed64):
            assert (kind, int.from_bytes(value, "little")) == (1, given_value)
        elif isinstance(given_value, int):
            assert (kind, value) == (0, given_value % (1 << 64))
        elif isinstance(given_value, bytes):
            assert (kind, bytes(value)) == (2, given_value)
        elif isinstance(given_value, str):
            assert (kind, str(value, "utf-8")) == (2, given_value)


def test_json_of_the_collectors_file_exporter_is_the_same():
    """Whitespace and order of members do not matter."""
    value = export(span("a", attributes={"gen_ai.tool.name": "x"}), resource={"process.pid": 1})
    group = value["resourceSpans"][0]
    turned = {"resourceSpans": [dict(reversed(group.items()))]}
    assert jsonform.read(json.dumps(turned, indent=1).encode(), WANTED, RESOURCE) == jsonform.read(
        as_json(value), WANTED, RESOURCE
    )
