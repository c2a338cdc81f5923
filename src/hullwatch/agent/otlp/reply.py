"""Answers as bytes: OTLP's responses and google.rpc.Status, in protobuf and JSON.

Source: opentelemetry-proto, trace_service.proto; google/rpc/status.proto and error_details.proto;
grpc/doc/statuscodes.md; RFC 9110.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hullwatch.agent.otlp.intake import Answer, Form, Outcome
from hullwatch.context.protobuf import Encodable, encode

__all__ = ["CODES", "Codes", "body_of", "status_of"]


class Codes(NamedTuple):
    """HTTP's status and its words, gRPC's status. Clients try again on 429, 502, 503, 504 and
    UNAVAILABLE (14); some on RESOURCE_EXHAUSTED too, which is why what is too large is not that."""

    http: int
    words: str
    grpc: int


CODES: dict[Outcome, Codes] = {
    "ok": Codes(200, "OK", 0),
    "malformed": Codes(400, "Bad Request", 3),
    "unauthorized": Codes(403, "Forbidden", 7),
    "unknown": Codes(404, "Not Found", 12),
    "method": Codes(405, "Method Not Allowed", 12),
    "slow": Codes(408, "Request Timeout", 4),
    "oversize": Codes(413, "Content Too Large", 3),
    "media": Codes(415, "Unsupported Media Type", 3),
    "busy": Codes(429, "Too Many Requests", 14),
    "headers": Codes(431, "Request Header Fields Too Large", 3),
    "unsupported": Codes(501, "Not Implemented", 12),
}


def body_of(answer: Answer, form: Form) -> bytes:
    """An ExportTraceServiceResponse, or the Status that says why there is none."""
    code = CODES[answer.outcome].grpc
    if form == "json":
        return msgspec.json.encode(_plain(answer, code))
    if answer.outcome != "ok":
        return status_of(answer)
    if not answer.rejected and not answer.message:
        return b""
    return encode({1: {1: answer.rejected, 2: answer.message}})


def status_of(answer: Answer) -> bytes:
    """google.rpc.Status, with RetryInfo if it is of use to come again."""
    fields: dict[int, Encodable] = {1: CODES[answer.outcome].grpc, 2: answer.message}
    if answer.retry:
        info = encode({1: {1: answer.retry}})
        fields[3] = {1: "type.googleapis.com/google.rpc.RetryInfo", 2: info}
    return encode(fields)


def _plain(answer: Answer, code: int) -> dict[str, object]:
    if answer.outcome != "ok":
        return {"code": code, "message": answer.message}
    if not answer.rejected and not answer.message:
        return {}
    # A 64-bit number is a text in protobuf's JSON.
    return {
        "partialSuccess": {
            "rejectedSpans": str(answer.rejected),
            "errorMessage": answer.message,
        }
    }
