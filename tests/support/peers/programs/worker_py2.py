"""The worker on the Python SDK 2.x, both eras. Usage: worker_py2.py STYLE stdio|http|http-json"""

import asyncio
import sys

from acts import tools
from listening import serve
from mcp.server.mcpserver import MCPServer


def main() -> None:
    style, transport = sys.argv[1:]
    server = MCPServer("worker", log_level="ERROR")
    for name, act in tools(style).items():
        server.add_tool(act, name=name, description=act.__doc__ or name)
    if transport == "stdio":
        server.run()
    else:
        app = server.streamable_http_app(json_response=transport == "http-json")
        asyncio.run(serve(app))


main()
