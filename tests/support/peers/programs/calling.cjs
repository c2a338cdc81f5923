// What the two TypeScript clients share, as calling.py.
"use strict";
const { AsyncLocalStorage } = require("node:async_hooks");
const fs = require("node:fs");

const current = new AsyncLocalStorage();
const ids = new Map();
const now = () => String(Math.round((performance.timeOrigin + performance.now()) * 1000)) + "000";
const say = (what) => fs.writeSync(1, JSON.stringify(what) + "\n");
const plan = () => JSON.parse(fs.readFileSync(0, "utf8"));

// The transport, noting the id of each tools/call.
function noted(transport) {
  const send = transport.send.bind(transport);
  transport.send = (message, ...rest) => {
    if (message.method === "tools/call" && !ids.has(current.getStore())) ids.set(current.getStore(), message.id);
    return send(message, ...rest);
  };
  return transport;
}

async function callAll({ calls, concurrency }, client) {
  const left = calls.values();
  const work = async () => {
    for (const { token, tool, arguments: args } of left) {
      const begin = now();
      let ok = false;
      let text = "";
      try {
        const result = await current.run(token, () => client.callTool({ name: tool, arguments: args }));
        ok = !result.isError;
        text = result.content.find((part) => part.type === "text")?.text ?? "";
      } catch (error) {
        text = String(error);
      }
      // Written by hand: nanoseconds are too many digits for JSON.stringify.
      const rest = JSON.stringify({ token, ok, text, rpc_id: String(ids.get(token) ?? "") });
      fs.writeSync(1, `{"begin":${begin},"end":${now()},${rest.slice(1)}\n`);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

module.exports = { callAll, noted, plan, say };
