"""An MCP client over stdio, as an agent has one: starts each server, and calls its tools.

Usage: mcp_client.py SERVERS.json ROUNDS: [{"command", "env", "calls": [[tool, arguments]]}, ...]
Prints a line for each call; exit status 1 if a server refuses one.
"""

import json
import os
import subprocess
import sys


class Server:
    def __init__(self, command, env):
        self.last = 0
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | env
        )
        client = {"name": "day", "version": "1"}
        self.ask(
            "initialize",
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client},
        )
        self.send({"method": "notifications/initialized"})

    def send(self, message):
        self.child.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.child.stdin.flush()

    def ask(self, method, params):
        self.last += 1
        self.send({"id": self.last, "method": method, "params": params})
        while line := self.child.stdout.readline():
            answer = json.loads(line)
            if "method" in answer and "id" in answer:  # it asks us
                error = {"code": -32601, "message": "not here"}
                self.send({"id": answer["id"], "error": error})
            elif answer.get("id") == self.last:
                return answer
        raise SystemExit(f"{self.child.args} ended in {method}")

    def close(self):
        self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.terminate()
            self.child.wait()


def main():
    failed = False
    with open(sys.argv[1]) as file:
        servers = json.load(file)
    for server in servers:
        running = Server(server["command"], server.get("env", {}))
        tools = running.ask("tools/list", {})["result"]["tools"]
        print(server["command"], len(tools), "tools", flush=True)
        for _ in range(int(sys.argv[2])):
            for name, arguments in server["calls"]:
                answer = running.ask("tools/call", {"name": name, "arguments": arguments})
                bad = "error" in answer or answer["result"].get("isError")
                failed |= bool(bad)
                print("FAILED" if bad else "ok", name, json.dumps(answer)[:200], flush=True)
        running.close()
    sys.exit(failed)


main()
