"""An agent: asks the model, calls the tool that the model wants, asks again with the result.

    agent.py MODEL WISH [COMMAND ...]     the MCP server; default: the one beside it

With AGENT_WAITS_FOR it begins as soon as there is a file of that name.

Each step is one line on stdout, for whoever watches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


class Tools:
    """An MCP server that runs as a child, spoken to over its stdin and stdout."""

    def __init__(self, argv: list[str]) -> None:
        self._server = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._last = 0
        opening = {"protocolVersion": "2025-11-25", "capabilities": {}}
        self.ask("initialize", opening | {"clientInfo": {"name": "agent", "version": "1"}})
        self._send({"method": "notifications/initialized"})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin
        self._server.stdin.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        self._server.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One request, one result."""
        assert self._server.stdout
        self._last += 1
        self._send({"id": self._last, "method": method, "params": params})
        reply = json.loads(self._server.stdout.readline())
        if "error" in reply:
            raise RuntimeError(reply["error"]["message"])
        result: dict[str, Any] = reply["result"]
        return result


def ask_model(
    url: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> dict[str, Any]:
    """The model's message."""
    body = json.dumps({"model": "tiny", "messages": messages, "tools": tools}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        message: dict[str, Any] = json.load(reply)["choices"][0]["message"]
    return message


def call_tool(tools: Tools, name: str, arguments: dict[str, Any]) -> str:
    """What the tool said, or why it was not called: an agent goes on with either."""
    try:
        result = tools.ask("tools/call", {"name": name, "arguments": arguments})
    except RuntimeError as error:
        print(f"refused: {error}", flush=True)
        return f"refused: {error}"
    text: str = result["content"][0]["text"]
    return text


def main() -> None:
    url, wish, *command = sys.argv[1:]
    while (file := os.environ.get("AGENT_WAITS_FOR")) and not Path(file).exists():
        time.sleep(0.02)
    tools = Tools(command or [sys.executable, str(Path(__file__).with_name("mcp_server.py"))])
    offered = [
        {"type": "function", "function": {"name": tool["name"], "parameters": tool["inputSchema"]}}
        for tool in tools.ask("tools/list", {})["tools"]
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": wish}]
    print(f'asks the model: "{wish}"', flush=True)
    while calls := (message := ask_model(url, messages, offered)).get("tool_calls"):
        messages.append(message)
        for call in calls:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            print(f"tools/call {name} {json.dumps(arguments)}", flush=True)
            text = call_tool(tools, name, arguments)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    print(f'answers: "{message["content"]}"', flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
