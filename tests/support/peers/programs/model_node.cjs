// Calls of OpenAI's API over Node's own https: its TLS is linked into it. As model_calling.py.
"use strict";
const dns = require("node:dns");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");

const plan = JSON.parse(fs.readFileSync(0, "utf8"));
const now = () => String(Math.round((performance.timeOrigin + performance.now()) * 1000)) + "000";
const parameters = { type: "object", properties: { path: { type: "string" } } };
const tools = ["read_file", "write_file"].map((name) => ({ type: "function", function: { name, parameters } }));

function lookup(name, options, done) {
  if (!plan.hosts.includes(name)) return dns.lookup(name, options, done);
  const address = "127.0.0.1";
  return options.all ? done(null, [{ address, family: 4 }]) : done(null, address, 4);
}

function post(call, body) {
  const url = new URL("/v1/chat/completions", plan.base);
  const options = {
    method: "POST",
    lookup,
    port: plan.port,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${call.key}` },
  };
  // The port that is connected to is not that of the name; the field says what the client means.
  options.headers.Host = url.host;
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? https : http).request(url, options, (response) => {
      let text = "";
      response.on("data", (some) => (text += some));
      response.on("end", () => resolve([response.statusCode, text]));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(JSON.stringify(body));
  });
}

async function act(call) {
  const body = { model: call.model, messages: [{ role: "user", content: `${call.token} what happened today` }] };
  if (call.tools) body.tools = tools;
  if (call.stream) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  const [status, text] = await post(call, body);
  if (status !== 200) return { status };
  const data = call.stream
    ? text.split("\n").filter((line) => line.startsWith("data: {")).map((line) => line.slice(6))
    : [text];
  const received = { status, chosen: [] };
  for (const part of data.map((one) => JSON.parse(one))) {
    received.answered = part.model;
    for (const { delta, message, finish_reason: finish } of part.choices) {
      for (const tool of (delta ?? message).tool_calls ?? []) received.chosen.push(tool.function.name);
      if (finish) received.finish = finish;
    }
    if (part.usage) {
      received.input_tokens = part.usage.prompt_tokens;
      received.output_tokens = part.usage.completion_tokens;
    }
  }
  return received;
}

const left = plan.calls.values();
async function work() {
  for (const call of left) {
    const begin = now();
    const rest = JSON.stringify({ token: call.token, pid: process.pid, received: await act(call) });
    // Written by hand: nanoseconds are too many digits for JSON.stringify.
    fs.writeSync(1, `{"begin":${begin},"end":${now()},${rest.slice(1)}\n`);
  }
}
Promise.all(Array.from({ length: plan.concurrency }, work));
