// What the worker's tools do, as in acts.py. All is asynchronous, as in Node it would be.
"use strict";
const { spawn } = require("node:child_process");
const fs = require("node:fs/promises");
const net = require("node:net");
const { setTimeout: pause } = require("node:timers/promises");
const COMMANDS = require("./acts.json");

const told = (pids = []) => JSON.stringify({ pid: process.pid, pids });

function command(name, ...words) {
  const [program, ...fixed] = COMMANDS[name];
  return [program, [...fixed, ...words.map(String)]];
}

function started([program, words]) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (some) => (output += some));
    child.on("error", reject);
    child.on("close", (status) =>
      status ? reject(new Error(`${program}: ${status}`)) : resolve(output.split(/\s+/).filter(Boolean).map(Number)),
    );
  });
}

function connect({ token, host, port }) {
  return new Promise((resolve, reject) => {
    const peer = net.connect(port, host, () => peer.write(`${token}\n`));
    peer.on("data", () => peer.end());
    peer.on("close", resolve);
    peer.on("error", reject);
  });
}

// name → [kinds of the arguments, act]
module.exports = {
  run: [{ token: "string" }, async ({ token }) => told(await started(command("run", token)))],
  read: [{ token: "string", path: "string" }, async ({ path }) => told((await fs.readFile(path), []))],
  write: [{ token: "string", path: "string" }, async ({ token, path }) => told((await fs.writeFile(path, token), []))],
  fetch: [{ token: "string", host: "string", port: "number" }, async (asked) => told((await connect(asked), []))],
  chain: [
    { token: "string", host: "string", port: "number" },
    async ({ token, host, port }) => told(await started(command("chain", token, host, port))),
  ],
  linger: [
    { token: "string", host: "string", port: "number", ms: "number" },
    async ({ token, host, port, ms }) => {
      const [program, words] = command("linger", token, host, port, ms / 1000);
      const child = spawn(program, words, { stdio: "ignore", detached: true });
      child.unref();
      return told([child.pid]);
    },
  ],
  // The threads are libuv's: they serve whatever is asked next.
  threads: [
    { token: "string", folder: "string" },
    async ({ token, folder }) =>
      told((await Promise.all([0, 1, 2].map((number) => fs.writeFile(`${folder}/${token}.${number}`, token))), [])),
  ],
  sleep: [{ token: "string", ms: "number" }, async ({ ms }) => told((await pause(ms), []))],
  fail: [
    { token: "string" },
    async ({ token }) => {
      throw new Error(`${token} fails, as it was asked to`);
    },
  ],
};
