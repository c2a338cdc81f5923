"""A client on the Python SDK 1.x. A plan (see drive.py) on standard input; a line of JSON for the
connection and one for each call on standard output."""

import asyncio
import contextlib
from typing import Any

from calling import Noted, Plan, call_all, say
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


def transport(plan: Plan) -> Any:
    if plan.url:
        return streamable_http_client(plan.url)
    first, *rest = plan.command
    return stdio_client(StdioServerParameters(command=first, args=rest, env=plan.env))


async def main() -> None:
    plan = Plan.read()
    async with contextlib.AsyncExitStack() as stack:
        streams = await stack.enter_async_context(transport(plan))
        session = ClientSession(streams[0], Noted(streams[1]))
        await stack.enter_async_context(session)
        hello = await session.initialize()
        tools = await session.list_tools()
        say(protocol=hello.protocolVersion, tools=len(tools.tools))

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[bool, str]:
            result = await session.call_tool(tool, arguments)
            text = next((part.text for part in result.content if part.type == "text"), "")
            return not result.isError, text

        await call_all(plan, call)


asyncio.run(main())
