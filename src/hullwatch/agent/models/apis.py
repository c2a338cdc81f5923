"""The APIs that models are called by: one row each, and what is read where in it.

Fields that a path may lead to: asked, answered, id, stream, offered, offered_type, chosen, input,
output, cached, written (tokens), finish, error, code (which error), proof, and `?first` (there is
content; what it is stays unread).
Sources: the vendors' API references (OpenAI chat, responses, embeddings; Anthropic messages; Google
generateContent; Amazon Bedrock InvokeModel and Converse; Cohere v1 and v2; Ollama's api.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from hullwatch.agent.models.providers import COMPATIBLE
from hullwatch.agent.wire.jsonscan import MAX_TEXT, Paths

__all__ = ["APIS", "Api", "find"]

MAX_PATH = 2048

_ERROR = {
    "error.type": "error",
    "error.code": "code",
    "error.status": "error",  # Google
    "__type": "error",  # AWS
}


def _under(prefix: str, paths: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{path}": field for path, field in paths.items()}


_CHAT_USAGE = {
    "usage.prompt_tokens": "input",
    "usage.completion_tokens": "output",
    "usage.prompt_tokens_details.cached_tokens": "cached",
    "usage.prompt_cache_hit_tokens": "cached",  # DeepSeek
    "x_groq.usage.prompt_tokens": "input",
    "x_groq.usage.completion_tokens": "output",
}
_CHAT_REQUEST = {
    "model": "asked",
    "stream": "stream",
    "tools.*.function.name": "offered",
    "tools.*.custom.name": "offered",
    "functions.*.name": "offered",
}
_CHAT_ANSWER = {"model": "answered", "id": "id", "choices.*.finish_reason": "finish"}
_CHAT_RESPONSE = {
    **_CHAT_ANSWER,
    **_CHAT_USAGE,
    **_ERROR,
    "choices.*.message.tool_calls.*.function.name": "chosen",
    "choices.*.message.tool_calls.*.custom.name": "chosen",
    "choices.*.message.function_call.name": "chosen",
}
_CHAT_STREAM = {
    **_CHAT_ANSWER,
    **_CHAT_USAGE,
    **_ERROR,
    "choices.*.delta.content": "?first",
    "choices.*.delta.reasoning_content": "?first",
    "choices.*.delta.reasoning": "?first",
    "choices.*.delta.tool_calls": "?first",
    "choices.*.text": "?first",
    "choices.*.delta.tool_calls.*.function.name": "chosen",
    "choices.*.delta.tool_calls.*.custom.name": "chosen",
    "choices.*.delta.function_call.name": "chosen",
}

_RESPONSES_REQUEST = {
    "model": "asked",
    "stream": "stream",
    "tools.*.name": "offered",
    "tools.*.type": "offered_type",
    "tools.*.server_label": "offered",
}
_RESPONSES = {
    "model": "answered",
    "id": "id",
    "status": "finish",
    "incomplete_details.reason": "finish",
    "usage.input_tokens": "input",
    "usage.output_tokens": "output",
    "usage.input_tokens_details.cached_tokens": "cached",
    "output.*.name": "chosen",
    **_ERROR,
}
_RESPONSES_STREAM = {
    **_under("response", _RESPONSES),
    **_ERROR,
    "item.name": "chosen",
    "delta": "?first",
    "code": "code",
}

_MESSAGES_REQUEST = {"model": "asked", "stream": "stream", "tools.*.name": "offered"}
_MESSAGES_USAGE = {
    "usage.input_tokens": "input",
    "usage.output_tokens": "output",
    "usage.cache_read_input_tokens": "cached",
    "usage.cache_creation_input_tokens": "written",
}
_MESSAGES = {
    "model": "answered",
    "id": "id",
    "stop_reason": "finish",
    "content.*.name": "chosen",
    **_MESSAGES_USAGE,
    **_ERROR,
}
_MESSAGES_STREAM = {
    **_under("message", _MESSAGES),
    **_MESSAGES_USAGE,
    **_ERROR,
    "content_block.name": "chosen",
    "delta.stop_reason": "finish",
    "delta.text": "?first",
    "delta.thinking": "?first",
    "delta.partial_json": "?first",
}

_GEMINI_REQUEST = {
    "tools.*.functionDeclarations.*.name": "offered",
    "tools.*.function_declarations.*.name": "offered",
}
_GEMINI = {
    "modelVersion": "answered",
    "responseId": "id",
    "candidates.*.finishReason": "finish",
    "candidates.*.content.parts": "?first",
    "candidates.*.content.parts.*.functionCall.name": "chosen",
    "promptFeedback.blockReason": "finish",
    "usageMetadata.promptTokenCount": "input",
    "usageMetadata.candidatesTokenCount": "output",
    "usageMetadata.cachedContentTokenCount": "cached",
    **_ERROR,
}

_CONVERSE_USAGE = {
    "usage.inputTokens": "input",
    "usage.outputTokens": "output",
    "usage.cacheReadInputTokens": "cached",
    "usage.cacheWriteInputTokens": "written",
}
_CONVERSE_REQUEST = {"toolConfig.tools.*.toolSpec.name": "offered"}
_CONVERSE = {
    "stopReason": "finish",
    "output.message.content.*.toolUse.name": "chosen",
    **_CONVERSE_USAGE,
    **_ERROR,
}
_CONVERSE_STREAM = {
    "stopReason": "finish",
    "start.toolUse.name": "chosen",
    "delta.text": "?first",
    "delta.toolUse": "?first",
    "delta.reasoningContent": "?first",
    **_CONVERSE_USAGE,
    **_ERROR,
}
# InvokeModel carries each maker's own format: Anthropic, Amazon Nova, Meta, Cohere, Mistral.
_INVOKE_REQUEST = {
    "tools.*.name": "offered",
    "tools.*.function.name": "offered",
    **_CONVERSE_REQUEST,
}
_INVOKE = {
    **_MESSAGES,
    **_CONVERSE,
    "prompt_token_count": "input",
    "generation_token_count": "output",
    "choices.*.finish_reason": "finish",
    "choices.*.message.tool_calls.*.function.name": "chosen",
    "finish_reason": "finish",
}
_INVOKE_STREAM = {
    **_MESSAGES_STREAM,
    **_CONVERSE_STREAM,
    "messageStop.stopReason": "finish",
    "contentBlockStart.start.toolUse.name": "chosen",
    "contentBlockDelta.delta.text": "?first",
    "generation": "?first",
    "metadata.usage.inputTokens": "input",
    "metadata.usage.outputTokens": "output",
    "amazon-bedrock-invocationMetrics.inputTokenCount": "input",
    "amazon-bedrock-invocationMetrics.outputTokenCount": "output",
}

_COHERE_REQUEST = {
    "model": "asked",
    "stream": "stream",
    "tools.*.function.name": "offered",
    "tools.*.name": "offered",
}
_COHERE_ANSWER = {
    "id": "id",
    "generation_id": "id",
    "finish_reason": "finish",
    "message.tool_calls.*.function.name": "chosen",
    "tool_calls.*.name": "chosen",
    **{
        f"{place}.{kind}.{count}_tokens": count
        for place in ("usage", "meta")
        for kind in ("billed_units", "tokens")  # the last said counts: what was really read
        for count in ("input", "output")
    },
    "usage.cached_tokens": "cached",
}
_COHERE = {**_COHERE_ANSWER, **_ERROR}
_COHERE_STREAM = {
    **_under("delta", _COHERE_ANSWER),
    **_under("response", _COHERE_ANSWER),
    "id": "id",
    "finish_reason": "finish",
    "delta.message.tool_calls.function.name": "chosen",
    "tool_calls.*.name": "chosen",
    "delta.message.content.text": "?first",
    "delta.message.tool_plan": "?first",
    "text": "?first",
    **_ERROR,
}

_OLLAMA_REQUEST = {"model": "asked", "stream": "stream", "tools.*.function.name": "offered"}
_OLLAMA = {
    "model": "answered",
    "done": "proof",
    "done_reason": "finish",
    "message.content": "?first",
    "message.thinking": "?first",
    "message.tool_calls.*.function.name": "chosen",
    "response": "?first",
    "prompt_eval_count": "input",
    "eval_count": "output",
    "embeddings": "?proof",
    "embedding": "?proof",
}


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """path: of the whole path; a group `model` is the model asked for. needs: with hosts of nobody
    we know, one of these fields has to be there, or it is not believed to be this API (others use
    such paths, too). provider: whose it is where the host does not tell. adds_cache: its count of
    input tokens leaves out the cached ones.
    """

    name: str
    path: re.Pattern[str]
    request: Paths
    response: Paths
    stream: Paths
    operation: str = "chat"
    provider: str = COMPATIBLE
    needs: frozenset[str] = frozenset()
    adds_cache: bool = False


def _path(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_MODEL = frozenset(("asked", "answered"))
_DEPLOYMENT = r"(?:.*/deployments/(?P<model>[^/]+)|.*)"  # Azure's
_GOOGLE = r".*/(?:models|tunedModels|endpoints)/(?P<model>[^/:]+)"
_BEDROCK = r"/model/(?P<model>[^/]+)"
_NOTHING = Paths({})
_EMBEDDED = Paths({"model": "answered", "usage.prompt_tokens": "input", **_ERROR})
# Where the request does not ask for `alt=sse`, the reply is one array of the same pieces.
_GEMINI_PIECES = Paths({**_GEMINI, **_under("*", _GEMINI)})

APIS: tuple[Api, ...] = (
    Api(
        name="openai.chat",
        path=_path(_DEPLOYMENT + "/chat/completions"),
        request=Paths(_CHAT_REQUEST),
        response=Paths(_CHAT_RESPONSE),
        stream=Paths(_CHAT_STREAM),
        needs=_MODEL,
    ),
    Api(
        name="openai.responses",
        path=_path(r".*/(?:v1|openai)/responses"),
        request=Paths(_RESPONSES_REQUEST),
        response=Paths(_RESPONSES),
        stream=Paths(_RESPONSES_STREAM),
        needs=_MODEL,
    ),
    Api(
        name="openai.completions",
        operation="text_completion",
        path=_path(r"(?:.*/deployments/(?P<model>[^/]+)|.*/v1|/beta)/completions"),
        request=Paths(_CHAT_REQUEST),
        response=Paths(_CHAT_RESPONSE),
        stream=Paths(_CHAT_STREAM),
        needs=_MODEL,
    ),
    Api(
        name="openai.embeddings",
        operation="embeddings",
        path=_path(r"(?:.*/deployments/(?P<model>[^/]+)|.*/v1|.*/openai)/embeddings"),
        request=Paths({"model": "asked"}),
        response=_EMBEDDED,
        stream=_EMBEDDED,
        needs=_MODEL,
    ),
    Api(
        name="anthropic.messages",
        provider="anthropic_compatible",  # Ollama, vLLM and proxies speak it, too
        path=_path(r".*/v1/messages"),
        request=Paths(_MESSAGES_REQUEST),
        response=Paths(_MESSAGES),
        stream=Paths(_MESSAGES_STREAM),
        needs=_MODEL,
        adds_cache=True,
    ),
    Api(
        name="anthropic.vertex",
        provider="gcp.vertex_ai",
        path=_path(r".*/publishers/anthropic/models/(?P<model>[^/:]+):(?:raw|streamRaw)Predict"),
        request=Paths(_MESSAGES_REQUEST),
        response=Paths(_MESSAGES),
        stream=Paths(_MESSAGES_STREAM),
        adds_cache=True,
    ),
    Api(
        name="google.generate",
        operation="generate_content",
        provider="gcp.gemini",
        path=_path(_GOOGLE + ":(?:generateContent|streamGenerateContent)"),
        request=Paths(_GEMINI_REQUEST),
        response=_GEMINI_PIECES,
        stream=_GEMINI_PIECES,
    ),
    Api(
        name="google.embed",
        operation="embeddings",
        provider="gcp.gemini",
        path=_path(_GOOGLE + ":(?:embedContent|batchEmbedContents)"),
        request=_NOTHING,
        response=Paths(_ERROR),
        stream=_NOTHING,
    ),
    Api(
        name="bedrock.converse",
        provider="aws.bedrock",
        path=_path(_BEDROCK + "/converse(?:-stream)?"),
        request=Paths(_CONVERSE_REQUEST),
        response=Paths(_CONVERSE),
        stream=Paths(_CONVERSE_STREAM),
        adds_cache=True,
    ),
    Api(
        name="bedrock.invoke",
        provider="aws.bedrock",
        path=_path(_BEDROCK + "/invoke(?:-with-response-stream)?"),
        request=Paths(_INVOKE_REQUEST),
        response=Paths(_INVOKE),
        stream=Paths(_INVOKE_STREAM),
        adds_cache=True,
    ),
    Api(
        name="cohere.chat",
        provider="cohere",
        path=_path(r"/v[12]/chat"),
        request=Paths(_COHERE_REQUEST),
        response=Paths(_COHERE),
        stream=Paths(_COHERE_STREAM),
        needs=frozenset(("input",)),
    ),
    Api(
        name="cohere.embed",
        operation="embeddings",
        provider="cohere",
        path=_path(r"/v[12]/embed"),
        request=Paths({"model": "asked"}),
        response=Paths(_COHERE),
        stream=_NOTHING,
        needs=frozenset(("input",)),
    ),
    Api(
        name="ollama.chat",
        provider="ollama",
        path=_path(r"/api/chat"),
        request=Paths(_OLLAMA_REQUEST),
        response=Paths(_OLLAMA),
        stream=Paths(_OLLAMA),
        needs=frozenset(("proof",)),
    ),
    Api(
        name="ollama.generate",
        operation="text_completion",
        provider="ollama",
        path=_path(r"/api/generate"),
        request=Paths(_OLLAMA_REQUEST),
        response=Paths(_OLLAMA),
        stream=Paths(_OLLAMA),
        needs=frozenset(("proof",)),
    ),
    Api(
        name="ollama.embed",
        operation="embeddings",
        provider="ollama",
        path=_path(r"/api/embed(?:dings)?"),
        request=Paths(_OLLAMA_REQUEST),
        response=Paths(_OLLAMA),
        stream=Paths(_OLLAMA),
        needs=frozenset(("proof",)),
    ),
)


def find(path: str) -> tuple[Api, str] | None:
    """The API that a path belongs to, and the model that it names ('' if none)."""
    for api in APIS if len(path) <= MAX_PATH else ():
        match = api.path.fullmatch(path)
        if match is not None:
            return api, unquote(match.groupdict().get("model") or "")[:MAX_TEXT]
    return None
