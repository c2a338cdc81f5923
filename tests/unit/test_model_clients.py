"""The vendors' own clients speak to a socket of ours, and what they say is read.

Skipped where a client is not installed (pip install openai anthropic ollama google-genai cohere).
"""

from __future__ import annotations

import importlib
import re
import socket
import threading

import pytest

from hullwatch.agent.connection import Connection
from hullwatch.agent.models.call import ModelCall
from support.wire_samples import MODELS

REPLIES = {sample.name: sample.pieces[-1][1] for sample in MODELS}
ASK = [{"role": "user", "content": "planted"}]
TOOL = {"name": "lookup", "description": "planted"}
SCHEMA = {"type": "object", "properties": {}}


def _openai(module, url, stream):
    client = module.OpenAI(api_key="key", base_url=f"{url}/v1", max_retries=0, timeout=20)
    tools = [{"type": "function", "function": TOOL | {"parameters": SCHEMA}}]
    got = client.chat.completions.create(model="m", messages=ASK, tools=tools, stream=stream)
    return list(got) if stream else got


def _anthropic(module, url, stream):
    client = module.Anthropic(api_key="key", base_url=url, max_retries=0, timeout=20)
    tools = [TOOL | {"input_schema": SCHEMA}]
    got = client.messages.create(model="m", max_tokens=9, messages=ASK, tools=tools, stream=stream)
    return list(got) if stream else got


def _ollama(module, url, stream):
    tools = [{"type": "function", "function": TOOL | {"parameters": SCHEMA}}]
    got = module.Client(host=url).chat(model="m", messages=ASK, tools=tools, stream=stream)
    return list(got) if stream else got


def _google(module, url, stream):
    client = module.Client(api_key="key", http_options={"base_url": url})
    config = {"tools": [{"function_declarations": [TOOL]}]}
    ask = client.models.generate_content_stream if stream else client.models.generate_content
    got = ask(model="m", contents="planted", config=config)
    return list(got) if stream else got


def _cohere(module, url, stream):
    client = module.ClientV2(api_key="key", base_url=url, timeout=20)
    tools = [{"type": "function", "function": TOOL | {"parameters": SCHEMA}}]
    ask = client.chat_stream if stream else client.chat
    got = ask(model="m", messages=ASK, tools=tools)
    return list(got) if stream else got


@pytest.mark.parametrize(
    ("name", "client", "use", "provider"),
    [
        ("openai", "openai", _openai, "openai_compatible"),
        ("openai streamed", "openai", _openai, "openai_compatible"),
        ("openai packed", "openai", _openai, "openai_compatible"),
        ("anthropic", "anthropic", _anthropic, "anthropic_compatible"),
        ("anthropic streamed", "anthropic", _anthropic, "anthropic_compatible"),
        ("ollama streamed", "ollama", _ollama, "ollama"),
        ("gemini", "google.genai", _google, "gcp.gemini"),
        ("gemini streamed", "google.genai", _google, "gcp.gemini"),
        ("cohere streamed", "cohere", _cohere, "cohere"),
    ],
)
def test_a_real_client_is_read(name, client, use, provider):
    try:
        module = importlib.import_module(client)
    except ImportError:
        pytest.skip(f"needs {client}: pip install {client.replace('.', '-')}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[tuple[str, bytes]] = []
        answering = threading.Thread(target=_answer, args=(listener, REPLIES[name], heard))
        answering.start()
        use(module, f"http://127.0.0.1:{listener.getsockname()[1]}", "streamed" in name)
        answering.join(20)
    connection = Connection(lambda text: f"hash of {text}")
    events = [each for piece in heard for each in connection.feed(*piece, 1)]
    (call,) = events
    assert isinstance(call, ModelCall)
    assert (call.provider, call.asked, call.offered) == (provider, "m", ("lookup",))
    assert call.status == "ok" and call.chosen and call.input_tokens and call.output_tokens
    assert call.credential.hash == ("" if client == "ollama" else "hash of key")
    assert "planted" not in repr(events)


def _answer(listener: socket.socket, reply: bytes, heard: list[tuple[str, bytes]]) -> None:
    """One request, one reply; what is heard is of the client's process."""
    peer, _ = listener.accept()
    with peer:
        asked = b""
        while not _complete(asked):
            piece = peer.recv(65536)
            if not piece:
                return
            heard.append(("sent", piece))
            asked += piece
        heard.append(("received", reply))
        peer.sendall(reply)


def _complete(asked: bytes) -> bool:
    head, mark, body = asked.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length is None:
        return bool(mark) and body.endswith(b"0\r\n\r\n")
    return len(body) >= int(length[1])
