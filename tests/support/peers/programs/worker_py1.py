"""The worker on the Python SDK 1.x. Usage: worker_py1.py STYLE stdio|http|http-json"""

import asyncio
import sys

from acts import tools
from listening import serve
from mcp.server.fastmcp import FastMCP


def main() -> None:
    style, transport = sys.argv[1:]
    server = FastMCP("worker", json_response=transport == "http-json", log_level="ERROR")
    for name, act in tools(style).items():
        server.add_tool(act, name=name, description=act.__doc__ or name)
    if transport == "stdio":
        server.run()
    else:
        asyncio.run(serve(server.streamable_http_app()))


main()
