// A client on the TypeScript SDK 2.x; as client_py1.py.
"use strict";
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");
const { callAll, noted, plan, say } = require("./calling.cjs");

const MODES = { auto: "auto", old: "legacy", new: { pin: "2026-07-28" } };

async function main() {
  const asked = plan();
  const [command, ...args] = asked.command;
  const transport = asked.url
    ? new StreamableHTTPClientTransport(new URL(asked.url))
    : new StdioClientTransport({ command, args, env: asked.env });
  const client = new Client({ name: "peers", version: "2" }, { versionNegotiation: { mode: MODES[asked.era] } });
  await client.connect(noted(transport));
  const { tools } = await client.listTools();
  say({ protocol: client.getNegotiatedProtocolVersion(), tools: tools.length });
  await callAll(asked, client);
  await transport.terminateSession?.();
  await client.close();
}

main();
