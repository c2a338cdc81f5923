"""What a span says under which name: the attributes that are kept, and what others call them.

Kept is what stands in KEPT and nothing else, so content never is: no messages, prompts,
completions, arguments, results, documents, queries, URIs of resources, status texts, events.

Sources: open-telemetry/semantic-conventions-genai, registry gen-ai and mcp (2026-05); OpenInference
semantic conventions 0.1.42 (Arize, Phoenix); opentelemetry-semantic-conventions-ai 0.5.1
(Traceloop, OpenLLMetry); langfuse.com/integrations/native/opentelemetry; Vercel's AI SDK 4 to 6.
"""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.agent import semconv
from hullwatch.context.call import Kind

__all__ = [
    "CANCELLED",
    "KEPT",
    "KINDS",
    "NAMES_OF",
    "PARENT_SPAN_ID",
    "PROVIDERS",
    "RESOURCE",
    "SPAN_ID",
    "TRACE_ID",
    "WANTED",
    "Name",
]

# Of the span as its maker numbered it, in hex: to find it again elsewhere.
TRACE_ID = "hullwatch.trace.id"
SPAN_ID = "hullwatch.span.id"
PARENT_SPAN_ID = "hullwatch.parent_span.id"


class Name(NamedTuple):
    """An attribute that is kept, its type, and its other names: the first that is there counts."""

    name: str
    type: type[str] | type[int] | type[float] | type[bool] = str
    also: tuple[str, ...] = ()


KEPT = (
    Name(semconv.OPERATION),
    Name(
        semconv.PROVIDER,
        also=("gen_ai.system", "llm.provider", "llm.system", "ai.model.provider"),
    ),
    Name(
        semconv.REQUEST_MODEL,
        also=(
            "llm.request.model_name",
            "llm.model_name",
            "embedding.model_name",
            "reranker.model_name",
            "langfuse.observation.model.name",
            "ai.model.id",
            "llm.request.model",
        ),
    ),
    Name(
        semconv.RESPONSE_MODEL,
        also=("llm.response.model_name", "ai.response.model", "llm.response.model"),
    ),
    Name(semconv.RESPONSE_ID, also=("ai.response.id",)),
    Name(
        semconv.FINISH_REASONS,
        also=(
            "gen_ai.response.finish_reason",
            "llm.response.finish_reason",
            "llm.finish_reason",
            "gen_ai.response.stop_reason",
            "llm.response.stop_reason",
            "ai.response.finishReason",
        ),
    ),
    Name(
        semconv.INPUT_TOKENS,
        int,
        (
            "gen_ai.usage.prompt_tokens",
            "llm.token_count.prompt",
            "ai.usage.inputTokens",
            "ai.usage.promptTokens",
            "ai.usage.tokens",
        ),
    ),
    Name(
        semconv.OUTPUT_TOKENS,
        int,
        (
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "ai.usage.outputTokens",
            "ai.usage.completionTokens",
        ),
    ),
    Name(
        "gen_ai.usage.cache_read.input_tokens",
        int,
        (
            "gen_ai.usage.cache_read_input_tokens",
            "llm.token_count.prompt_details.cache_read",
            "ai.usage.cachedInputTokens",
        ),
    ),
    Name(
        "gen_ai.usage.cache_creation.input_tokens",
        int,
        (
            "gen_ai.usage.cache_creation_input_tokens",
            "llm.token_count.prompt_details.cache_write",
        ),
    ),
    Name(
        "gen_ai.usage.reasoning.output_tokens",
        int,
        (
            "gen_ai.usage.reasoning_tokens",
            "llm.usage.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
            "ai.usage.reasoningTokens",
        ),
    ),
    Name("gen_ai.request.stream", bool, ("gen_ai.is_streaming", "llm.is_streaming")),
    Name("gen_ai.response.time_to_first_chunk", float),
    Name(semconv.TOOL_NAME, also=("tool.name", "ai.toolCall.name")),
    Name(semconv.TOOL_CALL_ID, also=("tool.id", "tool_call.id", "ai.toolCall.id")),
    Name(semconv.TOOL_TYPE),
    Name(semconv.AGENT_NAME, also=("agent.name",)),
    Name("gen_ai.agent.id"),
    Name("gen_ai.agent.version"),
    Name("gen_ai.workflow.name", also=("traceloop.workflow.name",)),
    Name(semconv.CONVERSATION_ID, also=("session.id", "langfuse.session.id")),
    Name(semconv.MCP_METHOD),
    Name(semconv.MCP_SESSION),
    Name(semconv.MCP_PROTOCOL),
    Name(semconv.JSONRPC_ID, also=("mcp.request.id",)),
    Name(semconv.RPC_STATUS),
    Name(semconv.SERVER_ADDRESS),
    Name(semconv.SERVER_PORT, int),
    Name(semconv.NETWORK_TRANSPORT),
    Name(semconv.HTTP_STATUS, int),
    Name(semconv.ERROR_TYPE),
)

_AI_SDK_STEPS = "generateText.doGenerate streamText.doStream generateObject.doGenerate"
_AI_SDK_STEPS += " streamObject.doStream embed.doEmbed embedMany.doEmbed"
_AI_SDK_TASKS = "generateText streamText generateObject streamObject embed embedMany"

# What decides the kind: an attribute, then its values in lower case. The first row that knows the
# span's value counts.
KINDS: tuple[tuple[str, dict[str, Kind]], ...] = (
    (
        semconv.OPERATION,
        {
            "execute_tool": "tool",
            **dict.fromkeys(
                "chat text_completion generate_content embeddings llm_request".split(), "model"
            ),
            **dict.fromkeys(
                "invoke_agent create_agent invoke_workflow plan retrieval execute_task"
                " vector_db_retrieve search_memory create_memory update_memory upsert_memory"
                " delete_memory create_memory_store delete_memory_store".split(),
                "task",
            ),
        },
    ),
    (
        semconv.MCP_METHOD,
        {
            "tools/call": "tool",
            "sampling/createmessage": "model",
            "resources/read": "task",
            "prompts/get": "task",
        },
    ),
    (
        "openinference.span.kind",
        {
            "tool": "tool",
            **dict.fromkeys("llm embedding reranker decision".split(), "model"),
            **dict.fromkeys("agent chain retriever guardrail".split(), "task"),
        },
    ),
    (
        "langfuse.observation.type",
        {
            "tool": "tool",
            **dict.fromkeys("generation embedding".split(), "model"),
            **dict.fromkeys("agent chain retriever guardrail".split(), "task"),
        },
    ),
    (
        "traceloop.span.kind",
        {"tool": "tool", **dict.fromkeys("workflow task agent".split(), "task")},
    ),
    ("llm.request.type", dict.fromkeys("completion chat rerank embedding".split(), "model")),
    (
        "ai.operationId",
        {
            "ai.toolcall": "tool",
            **{f"ai.{step}".lower(): "model" for step in _AI_SDK_STEPS.split()},
            **{f"ai.{task}".lower(): "task" for task in _AI_SDK_TASKS.split()},
        },
    ),
)

# Where a call's name is looked for; else it is the span's.
NAMES_OF: dict[Kind, tuple[str, ...]] = {
    "tool": (semconv.TOOL_NAME, "traceloop.entity.name"),
    "model": (semconv.REQUEST_MODEL, semconv.RESPONSE_MODEL),
    "task": (
        semconv.AGENT_NAME,
        "gen_ai.workflow.name",
        "gen_ai.task.name",
        "traceloop.entity.name",
        "graph.node.name",
        semconv.MCP_METHOD,
    ),
}

# Providers under other names than the registry's, in lower case.
PROVIDERS = {
    "az.ai.openai": "azure.ai.openai",
    "azure": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "az.ai.inference": "azure.ai.inference",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "amazon-bedrock": "aws.bedrock",
    "google": "gcp.gen_ai",
    "gemini": "gcp.gemini",
    "google.generative-ai": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "google.vertex": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "moonshot": "moonshot_ai",
    "watsonx": "ibm.watsonx.ai",
    "openai.chat": "openai",
    "openai.responses": "openai",
    "openai.completion": "openai",
    "openai.embedding": "openai",
    "anthropic.messages": "anthropic",
}

# error.type of a call that was called off, in lower case and without its module.
CANCELLED = frozenset(("cancelled", "canceled", "cancellederror", "aborterror"))

# Attributes of the resource, for joining.
RESOURCE = frozenset(("process.pid", "container.id", "k8s.pod.uid", "host.name", "service.name"))

WANTED = frozenset(
    (
        *(name for row in KEPT for name in (row.name, *row.also)),
        *(name for name, _ in KINDS),
        *(name for names in NAMES_OF.values() for name in names),
    )
)
"""Attributes whose value is looked at."""
