"""Calls of model APIs by Anthropic's own client, also for Bedrock. See model_calling.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
from model_calling import PARAMETERS, TOOLS, Call, Received, Vendor, main, prompt


def make(client: str, style: str, base: str, key: str) -> Any:
    common = {"base_url": base, "api_key": key, "max_retries": 0}
    if client == "bedrock":
        amazon: Any = anthropic.AnthropicBedrock
        if style == "async":
            amazon = anthropic.AsyncAnthropicBedrock
        return amazon(aws_region="us-east-1", **common)
    plain: Any = anthropic.AsyncAnthropic if style == "async" else anthropic.Anthropic
    return plain(**common)


def request(client: Any, call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
    common = {"model": call["model"], "max_tokens": 100}
    common["messages"] = [{"role": "user", "content": prompt(call)}]
    if call["stream"]:
        common["stream"] = True
    if call["tools"]:
        common["tools"] = [{"name": name, "input_schema": PARAMETERS} for name in TOOLS]
    return client.messages.create, common


def read(call: Call, parts: list[Any]) -> Received:
    got: Received = {"chosen": []}
    for part in parts:
        if part.type in ("message", "message_start"):
            message = part if part.type == "message" else part.message
            got["answered"], got["input_tokens"] = message.model, message.usage.input_tokens
        if part.type == "message":
            got["finish"], got["output_tokens"] = part.stop_reason, part.usage.output_tokens
            got["chosen"] += [block.name for block in part.content if block.type == "tool_use"]
        if part.type == "content_block_start" and part.content_block.type == "tool_use":
            got["chosen"].append(part.content_block.name)
        if part.type == "message_delta":
            got["finish"], got["output_tokens"] = part.delta.stop_reason, part.usage.output_tokens
    return got


main(Vendor(make, request, read, anthropic.APIStatusError))
