"""Exports of traces as an SDK would send them, made by hand: in JSON's form and as protobuf; and an
endpoint for ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from hullwatch.context.protobuf import Encodable, Fixed64, encode

__all__ = ["BEGIN", "Collector", "MS", "SPAN", "TRACE", "as_json", "as_protobuf", "export", "span"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
BEGIN = 1_780_000_000_000_000_000
MS = 1_000_000

Json = dict[str, Any]


def _pairs(values: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> Json:
    for kind, name in ((bool, "boolValue"), (int, "intValue"), (float, "doubleValue")):
        if isinstance(value, kind):
            return {name: str(value) if name == "intValue" else value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": _pairs(value)}}
    return {"stringValue": value}


def span(name: str = "span", /, ident: str = SPAN, parent: str = "", **more: Any) -> Json:
    """more: attributes, as `attributes={...}`; begin, end, error, or any other member."""
    attributes = more.pop("attributes", {})
    begin, end = more.pop("begin", BEGIN), more.pop("end", BEGIN + 5 * MS)
    status = {"code": 2, "message": "it broke"} if more.pop("error", False) else {}
    return {
        "traceId": TRACE,
        "spanId": ident,
        "parentSpanId": parent,
        "name": name,
        "kind": 3,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(end),
        "attributes": _pairs(attributes),
        "status": status,
        **more,
    }


def export(*spans: Json, resource: Mapping[str, Any] | None = None) -> Json:
    scope = {"name": "test", "version": "1"}
    group = {
        "resource": {"attributes": _pairs(resource or {})},
        "scopeSpans": [{"scope": scope, "spans": list(spans)}],
    }
    return {"resourceSpans": [group]}


def as_json(value: Json) -> bytes:
    return json.dumps(value).encode()


# Name in JSON -> number, and what makes of the value what `encode` takes.
_Shape = dict[str, tuple[int, Callable[[Any], Encodable]]]


def _message(shape: _Shape) -> Callable[[Json], Encodable]:
    def make(value: Json) -> Encodable:
        return {shape[name][0]: shape[name][1](part) for name, part in value.items()}

    return make


def _each(make: Callable[[Any], Encodable]) -> Callable[[list[Any]], Encodable]:
    return lambda values: [make(value) for value in values]


_any: _Shape = {
    "stringValue": (1, str),
    "boolValue": (2, bool),
    "intValue": (3, int),
    "doubleValue": (4, float),
}
_pair: _Shape = {"key": (1, str), "value": (2, _message(_any))}
_any["arrayValue"] = (5, _message({"values": (1, _each(_message(_any)))}))
_any["kvlistValue"] = (6, _message({"values": (1, _each(_message(_pair)))}))
_ATTRIBUTES = _each(_message(_pair))
_STATUS: _Shape = {"message": (2, str), "code": (3, int)}
_EVENT: _Shape = {
    "timeUnixNano": (1, lambda text: Fixed64(int(text))),
    "name": (2, str),
    "attributes": (3, _ATTRIBUTES),
}
_SPAN: _Shape = {
    "traceId": (1, bytes.fromhex),
    "spanId": (2, bytes.fromhex),
    "parentSpanId": (4, bytes.fromhex),
    "name": (5, str),
    "kind": (6, int),
    "startTimeUnixNano": (7, lambda text: Fixed64(int(text))),
    "endTimeUnixNano": (8, lambda text: Fixed64(int(text))),
    "attributes": (9, _ATTRIBUTES),
    "events": (11, _each(_message(_EVENT))),
    "status": (15, _message(_STATUS)),
}
_SCOPE: _Shape = {"name": (1, str), "version": (2, str)}
_SCOPES: _Shape = {"scope": (1, _message(_SCOPE)), "spans": (2, _each(_message(_SPAN)))}
_GROUP: _Shape = {
    "resource": (1, _message({"attributes": (1, _ATTRIBUTES)})),
    "scopeSpans": (2, _each(_message(_SCOPES))),
}


def as_protobuf(value: Json) -> bytes:
    made = _message({"resourceSpans": (1, _each(_message(_GROUP)))})(value)
    assert isinstance(made, Mapping)
    return encode(made)


class Collector:
    """An OTLP endpoint that notes what it is sent."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
