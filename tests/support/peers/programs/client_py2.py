"""A client on the Python SDK 2.x; as client_py1.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from calling import Noted, Plan, call_all, say
from mcp import Client, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

MODES = {"auto": "auto", "old": "legacy", "new": "2026-07-28"}


@contextlib.asynccontextmanager
async def transport(plan: Plan) -> AsyncIterator[Any]:
    if plan.url:
        inner: Any = streamable_http_client(plan.url)
    else:
        first, *rest = plan.command
        inner = stdio_client(StdioServerParameters(command=first, args=rest, env=plan.env))
    async with inner as (reading, writing):
        yield reading, Noted(writing)


async def approve(context: Any, asked: Any) -> Any:
    """This client's user agrees to whatever is asked."""
    return types.ElicitResult(action="accept", content={"approve": True, "why": "its user"})


async def main() -> None:
    plan = Plan.read()
    mode = MODES[plan.era]
    async with Client(transport(plan), mode=mode, elicitation_callback=approve) as client:
        tools = await client.list_tools()
        say(protocol=client.protocol_version, tools=len(tools.tools))

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
            result = await client.call_tool(tool, arguments)
            text = next((part.text for part in result.content if part.type == "text"), "")
            return not result.is_error, text

        await call_all(plan, call)


asyncio.run(main())
