// A client on the TypeScript SDK 1.x; as client_py1.py.
"use strict";
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { callAll, noted, plan, say } = require("./calling.cjs");

async function main() {
  const asked = plan();
  const [command, ...args] = asked.command;
  const transport = asked.url
    ? new StreamableHTTPClientTransport(new URL(asked.url))
    : new StdioClientTransport({ command, args, env: asked.env });
  let protocol = "";
  transport.setProtocolVersion ??= () => {};
  const set = transport.setProtocolVersion.bind(transport);
  transport.setProtocolVersion = (version) => set((protocol = version));
  const client = new Client({ name: "peers", version: "1" });
  await client.connect(noted(transport));
  const { tools } = await client.listTools();
  say({ protocol, tools: tools.length });
  await callAll(asked, client);
  await transport.terminateSession?.();
  await client.close();
}

main();
