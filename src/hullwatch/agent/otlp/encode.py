"""Our own calls, signals and findings as OTLP: values in, protobuf out.

A call is a span with the names of OTel's conventions for generative AI and MCP; its findings are
events of it. A signal is a guardrail's span. A finding is a log record with OCSF's names (Detection
Finding, class 2004). Sources: opentelemetry-proto 1.10; semantic-conventions-genai (gen-ai-spans,
mcp); OCSF 1.9.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from hullwatch import __version__
from hullwatch.agent import semconv
from hullwatch.agent.otlp.names import PARENT_SPAN_ID, SPAN_ID, TRACE_ID
from hullwatch.context.call import AMBIGUOUS, Call, Signal
from hullwatch.context.protobuf import Encodable, Fixed64, encode

__all__ = ["Trace", "Traces", "logs_of", "spans_of", "trace_of"]

_MAX_BODY = 4096  # characters of a finding's output
_MAX_TAGS = 32
_INTERNAL, _CLIENT = 1, 3  # SpanKind
_ERROR = 2  # StatusCode

# Falco's priorities, which are syslog's, as SeverityNumber (logs data model, appendix B).
SEVERITY = {
    "EMERGENCY": 21,
    "ALERT": 19,
    "CRITICAL": 18,
    "ERROR": 17,
    "WARNING": 13,
    "NOTICE": 10,
    "INFORMATIONAL": 9,
    "DEBUG": 5,
}
_OPERATIONS = {"tool": "execute_tool", "model": "chat", "task": "invoke_agent"}
_NAMES = {"tool": semconv.TOOL_NAME, "model": semconv.REQUEST_MODEL, "task": semconv.AGENT_NAME}
_HEX = re.compile(r"[0-9a-f]+")

# Attribute -> field of a finding. Texts of the workload's that may be long are not among them.
_OF_FINDING = {
    "severity_id": "severity",
    "finding_info.uid": "id",
    "finding_info.title": "rule",
    "count": "count",
    "container.id": "container_full_id",
    "container.name": "container_name",
    "container.image.name": "image",
    "k8s.pod.name": "pod",
    "k8s.namespace.name": "namespace",
    "hullwatch.rule.hash": "rule_hash",
    "hullwatch.event": "event",
    "hullwatch.suppressed_by": "suppressed_by",
}

Trace = tuple[bytes, bytes]
"""(trace id, span id)."""
Traces = Mapping[int, Trace]
"""By Call.id."""
_NONE: Traces = {}


def trace_of(call: Call, traces: Traces = _NONE) -> Trace:
    """The ids that its framework gave it; else the trace of the call it was made in, if that is
    known, and its own id."""
    said = call.attributes
    span = _id(said.get(SPAN_ID), 8) or call.id.to_bytes(8)
    trace = _id(said.get(TRACE_ID), 16)
    if not trace and call.parent:
        trace = _made_in(call.parent, traces)[0]
    return trace or _trace(call.id), span


def spans_of(
    calls: Iterable[Call],
    signals: Iterable[Signal] = (),
    findings: Iterable[Mapping[str, Any]] = (),
    traces: Traces = _NONE,
    host: str = "",
) -> bytes:
    """An ExportTraceServiceRequest. findings: those whose `span` is one of the calls are events of
    it. traces: of these calls and those they were made in, as far as known. A call that still runs
    is left out."""
    of_call: dict[int, list[Mapping[str, Any]]] = {}
    for finding in findings:
        of_call.setdefault(int(finding.get("span") or 0), []).append(finding)
    spans = [_span(call, traces, of_call.get(call.id, [])) for call in calls if call.end]
    spans += [_guardrail(signal, traces) for signal in signals]
    return _request(spans, host)


def logs_of(
    findings: Iterable[Mapping[str, Any]],
    traces: Traces = _NONE,
    host: str = "",
) -> bytes:
    """An ExportLogsServiceRequest. findings: as detect/finding.py makes them, as plain values.
    traces: of the calls in which they were made, as far as known."""
    return _request([_record(finding, traces) for finding in findings], host)


# --- spans --------------------------------------------------------------------------------


def _span(call: Call, traces: Traces, findings: list[Mapping[str, Any]]) -> Mapping[int, Encodable]:
    trace, span = traces.get(call.id) or trace_of(call, traces)
    parent = _made_in(call.parent, traces)[1] if call.parent else b""
    attributes = _of_call(call)
    operation = attributes[semconv.OPERATION]
    fields: dict[int, Encodable] = {
        1: trace,
        2: span,
        4: _id(call.attributes.get(PARENT_SPAN_ID), 8) or parent,
        5: f"{call.attributes.get(semconv.MCP_METHOD) or operation} {call.name}".strip(),
        6: _CLIENT if call.kind == "model" or semconv.MCP_METHOD in attributes else _INTERNAL,
        7: Fixed64(call.begin),
        8: Fixed64(call.end),
        9: _pairs(attributes),
        11: [_event(finding) for finding in findings],
    }
    if call.status == "error":
        fields[15] = {3: _ERROR}
    return fields


def _of_call(call: Call) -> dict[str, Any]:
    ids = (TRACE_ID, SPAN_ID, PARENT_SPAN_ID)
    made = {name: value for name, value in call.attributes.items() if name not in ids}
    made.setdefault(semconv.OPERATION, _OPERATIONS[call.kind])
    made.setdefault(_NAMES[call.kind], call.name)
    if call.server:
        name = semconv.PROVIDER if call.kind == "model" else "hullwatch.server"
        made.setdefault(name, call.server)
    if call.error:
        made.setdefault(semconv.ERROR_TYPE, call.error)
    if call.pid:
        made["process.pid"] = call.pid
    made["hullwatch.call.id"] = f"{call.id:016x}"
    made["hullwatch.source"] = call.source
    made["hullwatch.status"] = call.status
    made["hullwatch.client"] = call.client
    made["hullwatch.request.bytes"] = call.request_bytes
    made["hullwatch.response.bytes"] = call.response_bytes
    return made


def _event(finding: Mapping[str, Any]) -> Mapping[int, Encodable]:
    said = {
        "finding_info.uid": finding.get("id"),
        "finding_info.title": finding.get("rule"),
        "severity_id": finding.get("severity"),
    }
    moment = Fixed64(_time(finding.get("time")))
    return {1: moment, 2: "hullwatch.finding", 3: _pairs(said)}


def _guardrail(signal: Signal, traces: Traces) -> Mapping[int, Encodable]:
    """The conventions for guardrails are not settled yet; the operation's name is the draft's."""
    key = f"{signal.call}/{signal.time}/{signal.kind}/{signal.subject}".encode()
    trace, parent = _made_in(signal.call, traces)
    attributes = {
        semconv.OPERATION: "run_guardrail",
        "hullwatch.signal.kind": signal.kind,
        "hullwatch.signal.subject": signal.subject,
        "hullwatch.signal.detail": signal.detail,
        "hullwatch.signal.held": signal.held,
        "hullwatch.server": signal.server,
        **signal.attributes,
    }
    return {
        1: trace or blake2b(key, digest_size=16).digest(),
        2: blake2b(key, digest_size=8).digest(),
        4: parent,
        5: f"run_guardrail {signal.kind}",
        6: _INTERNAL,
        7: Fixed64(signal.time),
        8: Fixed64(signal.time),
        9: _pairs(attributes),
    }


# --- logs ---------------------------------------------------------------------------------


def _record(finding: Mapping[str, Any], traces: Traces) -> Mapping[int, Encodable]:
    priority = str(finding.get("priority") or "").upper()
    first, last = _time(finding.get("time")), _time(finding.get("last"))
    span = int(finding.get("span") or 0)
    fields: dict[int, Encodable] = {
        1: Fixed64(first),
        11: Fixed64(max(first, last)),
        2: SEVERITY.get(priority, 0),
        3: priority,
        5: {1: str(finding.get("output") or "")[:_MAX_BODY]},
        6: _pairs(_of_finding(finding, span)),
        12: "hullwatch.finding",
    }
    if span and not span & AMBIGUOUS:
        fields[9], fields[10] = _made_in(span, traces)
    return fields


def _of_finding(finding: Mapping[str, Any], span: int) -> dict[str, Any]:
    activity = 2 if int(finding.get("count") or 1) > 1 else 1  # update, create
    said: dict[str, Any] = {
        "category_uid": 2,
        "class_uid": 2004,
        "activity_id": activity,
        "type_uid": 2004_00 + activity,
        **{name: finding.get(field) for name, field in _OF_FINDING.items()},
        "finding_info.first_seen_time": _time(finding.get("first")) // 10**6 or None,
        "finding_info.last_seen_time": _time(finding.get("last")) // 10**6 or None,
        "finding_info.types": [str(tag) for tag in finding.get("tags") or ()][:_MAX_TAGS],
    }
    chain = finding.get("processes") or ()
    if chain and isinstance(chain[0], Mapping):
        said["process.pid"] = chain[0].get("pid")
        said["process.executable.path"] = chain[0].get("exepath")
    if span & AMBIGUOUS:
        said["hullwatch.call.ambiguous"] = True
    elif span:
        said["hullwatch.call.id"] = f"{span:016x}"
    return said


# --- what both have -----------------------------------------------------------------------


def _request(items: list[Mapping[int, Encodable]], host: str) -> bytes:
    """ResourceSpans and ResourceLogs, and the requests that hold them, have the same numbers."""
    resource = {"service.name": "hullwatch", "service.version": __version__, "host.name": host}
    scope = {1: "hullwatch", 2: __version__}
    return encode({1: {1: {1: _pairs(resource)}, 2: {1: scope, 2: items}}})


def _pairs(values: Mapping[str, Any]) -> list[Encodable]:
    """KeyValues; what is empty is left out."""
    return [
        {1: name, 2: _any(value)}
        for name, value in values.items()
        if value is not None and value != "" and value != []
    ]


def _any(value: Any) -> Encodable:
    """AnyValue. bool is an int in Python and not in protobuf."""
    if isinstance(value, bool):
        return {2: value}
    if isinstance(value, int):
        return {3: value}
    if isinstance(value, float):
        return {4: value}
    if isinstance(value, list):
        return {5: {1: [_any(one) for one in value]}}
    return {1: str(value)}


def _made_in(call: int, traces: Traces) -> Trace:
    """Of what was made in a call; nothing for call 0."""
    if not call:
        return b"", b""
    return traces.get(call) or (_trace(call), call.to_bytes(8))


def _trace(root: int) -> bytes:
    """A trace id of a call's id: the same in every part of what that call led to."""
    return blake2b(root.to_bytes(8), digest_size=16, person=b"hullwatch trace").digest()


def _id(text: object, size: int) -> bytes:
    """Empty if it is no id in hex."""
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX.fullmatch(text):
        return b""
    made = bytes.fromhex(text)
    return made if any(made) else b""


def _time(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 64 else 0
