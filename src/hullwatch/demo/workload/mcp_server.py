"""An MCP server over stdio: JSON-RPC, one message a line (revision 2025-11-25). Its tools are
plugins, each a file with NAME, DESCRIPTION and call(arguments). It tells Hullwatch of
its calls, as the author of a framework would have it do (tool_call.py, a copy of Hullwatch's).

    mcp_server.py [FOLDER NAME]     where its plugins are, and its name; default: plugins, reports

Each call that arrives is a line on stderr.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tool_call import tool_call  # type: ignore[import-not-found]

REVISION = "2025-11-25"


def load(folder: Path) -> dict[str, ModuleType]:
    """Tool name → plugin."""
    found: dict[str, ModuleType] = {}
    for path in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[module.NAME] = module
    return found


def answer(
    name: str, tools: dict[str, ModuleType], method: str, params: dict[str, Any]
) -> dict[str, Any]:
    """The result of one request; KeyError for a method or a tool that there is not."""
    if method == "initialize":
        return {
            "protocolVersion": REVISION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": name, "version": "1"},
        }
    if method == "tools/list":
        return {
            "tools": [
                {
                    "name": tool.NAME,
                    "description": tool.DESCRIPTION,
                    "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}},
                }
                for tool in tools.values()
            ]
        }
    if method == "tools/call":
        tool = tools[params["name"]]
        print(f"arrived: {tool.NAME}", file=sys.stderr, flush=True)
        with tool_call(tool.NAME, server=name):
            text = tool.call(params.get("arguments") or {})
        return {"content": [{"type": "text", "text": text}], "isError": False}
    raise KeyError(method)


def main() -> None:
    folder, name = (*sys.argv[1:], *("plugins", "reports")[len(sys.argv) - 1 :])
    tools = load(Path(__file__).with_name(folder))
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue  # a notification
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            reply["result"] = answer(name, tools, request["method"], request.get("params") or {})
        except KeyError as error:
            reply["error"] = {"code": -32601, "message": f"no such method or tool: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
