"""An agent's loop: configuration, model, tool calls, answer. Usage: agent.py QUESTIONS"""

import json
import os
import sys
from pathlib import Path

from openai import OpenAI

os.environ.update(line.split("=", 1) for line in Path(".env").read_text().splitlines())
CONFIG = dict(line.split(": ", 1) for line in Path("config.yaml").read_text().splitlines())


def read_file(path):
    return Path(path).read_text()


def write_file(path, text):
    Path(path).write_text(text)
    return "written"


def add(numbers):
    return str(sum(numbers))


TOOLS = {tool.__name__: tool for tool in (read_file, write_file, add)}
SPECS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in TOOLS
]


def answer(client, question):
    messages = [
        {"role": "system", "content": CONFIG["system"]},
        {"role": "user", "content": question},
    ]
    while True:
        said = client.chat.completions.create(
            model=CONFIG["model"], messages=messages, tools=SPECS
        ).choices[0]
        messages.append(said.message.model_dump(exclude_none=True))
        if said.finish_reason != "tool_calls":
            return said.message.content
        for call in said.message.tool_calls:
            result = TOOLS[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


client = OpenAI()
for number in range(int(sys.argv[1])):
    print(answer(client, f"question {number}"), flush=True)
    stream = client.chat.completions.create(
        model=CONFIG["model"], messages=[{"role": "user", "content": "say"}], stream=True
    )
    print("".join(part.choices[0].delta.content or "" for part in stream), flush=True)
