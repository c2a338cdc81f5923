// The worker on the TypeScript SDK 1.x. Usage: worker_ts1.cjs stdio|http|http-json
"use strict";
const { randomUUID } = require("node:crypto");
const http = require("node:http");
const { McpServer } = require("@modelcontextprotocol/sdk/server/mcp.js");
const { StdioServerTransport } = require("@modelcontextprotocol/sdk/server/stdio.js");
const { StreamableHTTPServerTransport } = require("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { z } = require("zod");
const acts = require("./acts.cjs");

function worker() {
  const server = new McpServer({ name: "worker", version: "1" });
  for (const [name, [kinds, act]] of Object.entries(acts)) {
    const inputSchema = Object.fromEntries(Object.entries(kinds).map(([key, kind]) => [key, z[kind]()]));
    server.registerTool(name, { description: name, inputSchema }, async (asked) => ({
      content: [{ type: "text", text: await act(asked) }],
    }));
  }
  return server;
}

function serve(enableJsonResponse) {
  const sessions = new Map();
  const listening = http.createServer(async (request, response) => {
    let transport = sessions.get(request.headers["mcp-session-id"]);
    if (!transport) {
      transport = new StreamableHTTPServerTransport({
        enableJsonResponse,
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (id) => sessions.set(id, transport),
        onsessionclosed: (id) => sessions.delete(id),
      });
      await worker().connect(transport);
    }
    await transport.handleRequest(request, response);
  });
  listening.listen(0, "127.0.0.1", () =>
    console.log(JSON.stringify({ port: listening.address().port, pid: process.pid })),
  );
}

const [transport] = process.argv.slice(2);
if (transport === "stdio") worker().connect(new StdioServerTransport());
else serve(transport === "http-json");
