// The worker on the TypeScript SDK 2.x, both eras. Usage: worker_ts2.cjs stdio|http|http-json
"use strict";
const http = require("node:http");
const { toNodeHandler } = require("@modelcontextprotocol/node");
const { McpServer, createMcpHandler, fromJsonSchema } = require("@modelcontextprotocol/server");
const { serveStdio } = require("@modelcontextprotocol/server/stdio");
const acts = require("./acts.cjs");

function worker() {
  const server = new McpServer({ name: "worker", version: "2" });
  for (const [name, [kinds, act]] of Object.entries(acts)) {
    const properties = Object.fromEntries(Object.entries(kinds).map(([key, type]) => [key, { type }]));
    const inputSchema = fromJsonSchema({ type: "object", properties, required: Object.keys(kinds) });
    server.registerTool(name, { description: name, inputSchema }, async (asked) => ({
      content: [{ type: "text", text: await act(asked) }],
    }));
  }
  return server;
}

const [transport] = process.argv.slice(2);
if (transport === "stdio") serveStdio(worker);
else {
  const handler = createMcpHandler(worker, { responseMode: transport === "http-json" ? "json" : "sse" });
  const listening = http.createServer(toNodeHandler(handler));
  listening.listen(0, "127.0.0.1", () =>
    console.log(JSON.stringify({ port: listening.address().port, pid: process.pid })),
  );
}
