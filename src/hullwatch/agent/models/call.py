"""A call of a model, as it was seen on the wire. No content is in it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hullwatch.agent import semconv
from hullwatch.agent.models.credential import NONE, Credential
from hullwatch.context.call import MAX_TEXT, Call, Status, Value

__all__ = ["ModelCall"]


class ModelCall(msgspec.Struct, frozen=True, kw_only=True):
    """provider: OTel's name, or ours where OTel has none. api: row of `apis.py`. host: as the
    request names it, without the port; server: where the connection goes, as the tap knows it.
    asked, answered: models. offered, chosen: names of tools, each once, in order. Tokens are None
    where nobody said; input includes cached ones. first: ns from begin to the first of the reply's
    content, 0: not streamed, or not seen. Sizes are of the bodies as sent. partial: pieces of it
    are missing, or it could not be read: what is not here may have been there."""

    provider: str
    api: str
    operation: str
    host: str
    port: int = 0
    server: str = ""
    asked: str = ""
    answered: str = ""
    response_id: str = ""
    offered: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_written_tokens: int | None = None
    finish: tuple[str, ...] = ()
    streamed: bool = False
    first: int = 0
    begin: int
    end: int
    http_status: int = 0
    status: Status = "ok"
    error: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    credential: Credential = NONE
    partial: bool = False
    problems: tuple[str, ...] = ()

    def to_call(self, span: int, pid: int = 0) -> Call:
        """As everything else knows calls."""
        said: dict[str, Value | None] = {
            semconv.OPERATION: self.operation,
            semconv.PROVIDER: self.provider,
            semconv.REQUEST_MODEL: self.asked or None,
            semconv.RESPONSE_MODEL: self.answered or None,
            semconv.RESPONSE_ID: self.response_id or None,
            semconv.FINISH_REASONS: _joined(self.finish),
            semconv.INPUT_TOKENS: self.input_tokens,
            semconv.OUTPUT_TOKENS: self.output_tokens,
            semconv.CACHE_READ_TOKENS: self.cached_tokens,
            semconv.CACHE_CREATION_TOKENS: self.cache_written_tokens,
            semconv.SERVER_ADDRESS: self.host or self.server or None,
            semconv.SERVER_PORT: self.port or None,
            semconv.HTTP_STATUS: self.http_status or None,
            semconv.ERROR_TYPE: self.error or None,
            semconv.TOOLS_OFFERED: _joined(self.offered),
            semconv.TOOLS_CHOSEN: _joined(self.chosen),
            semconv.STREAMED: self.streamed or None,
            semconv.FIRST_TOKEN: self.first or None,
            semconv.API_KEY_HASH: self.credential.hash or None,
            semconv.API_KEY_KIND: self.credential.kind or None,
            semconv.PROBLEMS: _joined((*self.problems, *(["partial"] if self.partial else []))),
        }
        return Call(
            id=span,
            kind="model",
            source="tap",
            name=self.asked or self.answered,
            begin=self.begin,
            end=self.end,
            status=self.status,
            error=self.error,
            server=self.provider,
            pid=pid,
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            attributes={name: value for name, value in said.items() if value is not None},
        )


def _joined(names: Iterable[str]) -> str | None:
    """Separated by commas; those that do not fit are counted at the end: `a,b,+3`."""
    kept, left = "", 0
    for name in names:
        name = name.replace(",", "_")
        more = f"{kept},{name}" if kept else name
        if left or len(more) > MAX_TEXT - 8:
            left += 1
        else:
            kept = more
    return (f"{kept},+{left}" if left else kept) or None
