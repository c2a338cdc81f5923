"""Calls of model APIs by OpenAI's own client, also for Azure. See model_calling.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
from model_calling import PARAMETERS, TOOLS, Call, Received, Vendor, main, prompt

FUNCTIONS = [{"name": name, "parameters": PARAMETERS} for name in TOOLS]
CHAT_TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
RESPONSE_TOOLS = [{"type": "function"} | function for function in FUNCTIONS]


def make(client: str, style: str, base: str, key: str) -> Any:
    if client == "azure":
        azure: Any = openai.AsyncAzureOpenAI if style == "async" else openai.AzureOpenAI
        return azure(azure_endpoint=base, api_version="2024-10-21", api_key=key, max_retries=0)
    plain: Any = openai.AsyncOpenAI if style == "async" else openai.OpenAI
    return plain(base_url=f"{base}/v1", api_key=key, max_retries=0)


def request(client: Any, call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
    common = {"model": call["model"]} | ({"stream": True} if call["stream"] else {})
    if call["operation"] == "embeddings":
        return client.embeddings.create, common | {"input": prompt(call)}
    if call["operation"] == "responses":
        tools = {"tools": RESPONSE_TOOLS} if call["tools"] else {}
        return client.responses.create, common | {"input": prompt(call)} | tools
    tools = {"tools": CHAT_TOOLS} if call["tools"] else {}
    usage = {"stream_options": {"include_usage": True}} if call["stream"] else {}
    messages = [{"role": "user", "content": prompt(call)}]
    return client.chat.completions.create, common | {"messages": messages} | tools | usage


def read_chat(parts: list[Any]) -> Received:
    got: Received = {"answered": parts[0].model, "chosen": []}
    for part in parts:
        for choice in part.choices:
            said = choice.message if part.object == "chat.completion" else choice.delta
            got["chosen"] += [tool.function.name for tool in said.tool_calls or ()]
            if choice.finish_reason:
                got["finish"] = choice.finish_reason
        if part.usage:
            got["input_tokens"] = part.usage.prompt_tokens
            got["output_tokens"] = part.usage.completion_tokens
    return got


def read_responses(parts: list[Any]) -> Received:
    whole = getattr(parts[-1], "response", parts[-1])
    return {
        "answered": whole.model,
        "chosen": [item.name for item in whole.output if item.type == "function_call"],
        "finish": whole.status,
        "input_tokens": whole.usage.input_tokens,
        "output_tokens": whole.usage.output_tokens,
    }


def read_embeddings(parts: list[Any]) -> Received:
    assert len(parts[0].data[0].embedding) == 3
    return {"answered": parts[0].model, "input_tokens": parts[0].usage.prompt_tokens}


READ = {"chat": read_chat, "responses": read_responses, "embeddings": read_embeddings}


def read(call: Call, parts: list[Any]) -> Received:
    return READ[call["operation"]](parts)


main(Vendor(make, request, read, openai.APIStatusError))
