"""Loopback model APIs, and the clients that use them: what was asked, what was answered.

`ModelAPI` is a server process with a certificate made for it by openssl(1); `drive_models` has real
clients call it. Their names for the host are real ones if wanted (`api.openai.com`): the client's
process resolves them to this server.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from support.peers.drive import DriveError
from support.peers.environments import NODE, PROGRAMS, python
from support.peers.truth import new_run, token
from support.scratch import poll

__all__ = ["HOSTS", "KINDS", "MODEL_CLIENTS", "ModelAPI", "ModelClient", "ModelTruth"]
__all__ += ["drive_models", "model_api"]

HERE = Path(__file__).resolve().parent
ModelClient = Literal["openai", "azure", "anthropic", "bedrock", "plain", "node"]
Style = Literal["sync", "async"]

_VENDORS = str(python("vendors"))
MODEL_CLIENTS: dict[ModelClient, list[str]] = {
    "openai": [_VENDORS, str(PROGRAMS / "model_openai.py")],
    "azure": [_VENDORS, str(PROGRAMS / "model_openai.py")],
    "anthropic": [_VENDORS, str(PROGRAMS / "model_anthropic.py")],
    "bedrock": [_VENDORS, str(PROGRAMS / "model_anthropic.py")],
    "plain": [_VENDORS, str(PROGRAMS / "model_plain.py")],
    "node": [str(NODE), str(PROGRAMS / "model_node.cjs")],
}
"""The vendors' clients; and, for the APIs whose clients are not here, HTTP by hand in two
languages."""
HOSTS: dict[ModelClient, str] = {
    "openai": "api.openai.com",
    "azure": "peers.openai.azure.com",
    "anthropic": "api.anthropic.com",
    "bedrock": "bedrock-runtime.us-east-1.amazonaws.com",
    "plain": "generativelanguage.googleapis.com",
    "node": "api.openai.com",
}
_NAMES = ("localhost", *sorted(set(HOSTS.values())))


class Act(NamedTuple):
    """One kind of call. model and key: what makes the server refuse, or dawdle."""

    clients: tuple[ModelClient, ...]
    operation: str = "chat"
    stream: bool = False
    tools: bool = False
    model: str = "peer-large"
    key: str = "sk-peers-0123456789abcdef"
    status: int = 200


_ALL = tuple(MODEL_CLIENTS)
_STREAMING = tuple(name for name in _ALL if name != "bedrock")  # that needs an AWS library
KINDS: dict[str, Act] = {
    "chat": Act(_ALL),
    "stream": Act(_STREAMING, stream=True),
    "tools": Act(_ALL, tools=True),
    "tools-stream": Act(_STREAMING, tools=True, stream=True),
    "slow": Act(_ALL, model="slow"),
    "responses": Act(("openai",), "responses"),
    "responses-stream": Act(("openai",), "responses", stream=True),
    "responses-tools": Act(("openai",), "responses", tools=True, stream=True),
    "embeddings": Act(("openai",), "embeddings"),
    "gemini": Act(("plain",), "gemini"),
    "gemini-stream": Act(("plain",), "gemini", stream=True, tools=True),
    "ollama": Act(("plain",), "ollama"),
    "ollama-stream": Act(("plain",), "ollama", stream=True),
    "invoke-stream": Act(("plain",), "invoke", stream=True),
    "converse": Act(("plain",), "converse", tools=True),
    "converse-stream": Act(("plain",), "converse", stream=True),
    "refused": Act(_ALL, key="sk-refused-0123456789abcdef", status=401),
    "busy": Act(_ALL, model="busy", status=429),
    "broken": Act(_ALL, model="broken", status=500),
    "cut": Act(("openai", "azure", "anthropic"), stream=True, model="cut"),
}


class ModelTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a model. begin, end: unix ns at the client. received: what the client made of it
    (of these names, those that it was told). host: as in the Host field; name: the TLS name that
    was asked for. cut: the stream broke off. key: the API key, a made-up one."""

    kind: str
    token: str
    begin: int
    end: int
    pid: int
    provider: str
    operation: str
    host: str
    name: str
    model: str
    answered: str
    offered: tuple[str, ...]
    chosen: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    finish: str
    streamed: bool
    cut: bool
    status: int
    key: str
    received: dict[str, Any]

    @property
    def agreed(self) -> bool:
        """Did the client get what the server says it gave?"""
        return all(getattr(self, name) == value for name, value in self.received.items())


class ModelAPI(NamedTuple):
    """A server that runs. ca: the certificate to trust; None: it speaks plain HTTP."""

    port: int
    pid: int
    ca: Path | None
    log: Path

    def url(self, host: str = "127.0.0.1") -> str:
        """For a name of HOSTS, the standard port: the client's process maps both."""
        if host in HOSTS.values():
            return f"https://{host}" if self.ca else f"http://{host}"
        return f"{'https' if self.ca else 'http'}://{host}:{self.port}"

    def asked(self) -> dict[str, dict[str, Any]]:
        """What it was asked, by token."""
        return {line["token"]: line for line in map(json.loads, self.log.open())}


def _openssl(*words: str, folder: Path) -> None:
    try:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError:
        raise DriveError("needs openssl: apt-get install openssl") from None
    except subprocess.CalledProcessError as failed:
        raise DriveError(f"openssl: {failed.stderr.decode(errors='replace')}") from None


def _certify(folder: Path) -> tuple[Path, list[str]]:
    """A CA that is made for one server, and the server's certificate and key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca = ["-x509", "-subj", "/CN=Hullwatch tests", "-keyout", "ca.key", "-out", "ca.pem"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl("req", *key, *ca, *usage, folder=folder)
    names = ",".join([*(f"DNS:{name}" for name in _NAMES), "IP:127.0.0.1"])
    request = ["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"]
    _openssl("req", *key[:-2], *request, folder=folder)
    (folder / "server.ext").write_text(
        f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    files = ["-in", "server.csr", "-extfile", "server.ext", "-out", "server.pem"]
    _openssl("x509", "-req", *files, *signed, folder=folder)
    return folder / "ca.pem", [str(folder / "server.pem"), str(folder / "server.key")]


@contextlib.contextmanager
def model_api(folder: Path, *, tls: bool = True) -> Iterator[ModelAPI]:
    """Started on a free port of 127.0.0.1; its files lie in `folder`."""
    ca, certificate = _certify(folder) if tls else (None, [])
    log = folder / "asked.jsonl"
    log.touch()
    command = [sys.executable, str(HERE / "model_server.py"), str(log), *certificate]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert running.stdout
    try:
        line = running.stdout.readline()
        if not line:
            raise DriveError(f"the model server ended with {running.wait()}")
        hello = json.loads(line)
        yield ModelAPI(hello["port"], hello["pid"], ca, log)
    finally:
        running.terminate()
        running.wait()
        running.stdout.close()


def _environment(api: ModelAPI) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    kept["NO_PROXY"] = "*"
    trusted = str(api.ca) if api.ca else ""
    return kept | {"SSL_CERT_FILE": trusted, "NODE_EXTRA_CA_CERTS": trusted} if trusted else kept


def drive_models(
    api: ModelAPI,
    client: ModelClient = "openai",
    *,
    calls: int = 16,
    concurrency: int = 1,
    kinds: Sequence[str] = (),
    style: Style = "sync",
    host: str = "127.0.0.1",
    via: Sequence[str] = (),
    timeout: float = 120,
) -> list[ModelTruth]:
    """So many calls of `kinds` (all that the client can, in turn), `concurrency` at a time, in one
    process: `[*via, *client]`. host: 127.0.0.1, localhost, or one of HOSTS.
    style: threads and blocking clients, or an event loop; Node has but one.
    DriveError: no client, or not all answers."""
    run = new_run()
    names = kinds or tuple(name for name, act in KINDS.items() if client in act.clients)
    asks = {token(run, number): names[number % len(names)] for number in range(calls)}
    plan = {
        "client": client,
        "style": style,
        "base": api.url(host),
        "port": api.port,
        "hosts": list(_NAMES),
        "concurrency": concurrency,
        "calls": [{"token": one} | _wish(KINDS[kind]) for one, kind in asks.items()],
    }
    done = subprocess.run(
        [*via, *MODEL_CLIENTS[client]],
        input=json.dumps(plan).encode(),
        env=_environment(api),
        capture_output=True,
        timeout=timeout,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(lines) != calls:
        said = done.stderr.decode(errors="replace")[-4000:]
        raise DriveError(f"{client}: {len(lines)} of {calls} calls, {done.returncode}: …{said}")
    poll(lambda: api.asked().keys() >= asks.keys(), seconds=10, waiting_for="the server's log")
    told = api.asked()
    return [_truth(asks[line["token"]], line, told[line["token"]]) for line in lines]


def _wish(act: Act) -> dict[str, Any]:
    wish = act._asdict()
    del wish["clients"], wish["status"]
    return wish


def _truth(kind: str, line: Mapping[str, Any], told: Mapping[str, Any]) -> ModelTruth:
    both = dict(told) | {name: line[name] for name in ("begin", "end", "pid")}
    received = dict(line["received"])
    if "chosen" in received:
        received["chosen"] = tuple(received["chosen"])
    return msgspec.convert(both | {"kind": kind, "received": received}, ModelTruth, strict=False)
