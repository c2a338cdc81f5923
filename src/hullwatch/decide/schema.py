"""What policies may speak of: kinds of things, actions, and each attribute with its meaning.

The tables here are the one definition; `cedar()` writes Cedar's schema from them, which ships as
`policies/hullwatch.cedarschema` for editors. All attributes are flat.
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from hullwatch.decide.question import ACTIONS, PRINCIPALS, RESOURCES

__all__ = [
    "APPLIES",
    "CONTEXT",
    "ENTITIES",
    "Attribute",
    "cedar",
    "clean",
    "conform",
    "derived",
    "is_socket",
    "socket_path",
    "tables",
]


class Attribute(NamedTuple):
    """type: Bool, Long, String, Set<String> or ipaddr. sure: always there, so that a policy needs
    no `has` before it; where it is missing all the same, the policy cannot be evaluated."""

    name: str
    type: str
    doc: str
    sure: bool = False


def _attributes(*rows: Attribute) -> dict[str, Attribute]:
    return {row.name: row for row in rows}


_NAME = Attribute("name", "String", "as its id", sure=True)
_PORT = Attribute("port", "Long", "of the server's end")

ENTITIES: dict[str, dict[str, Attribute]] = {
    "Workload": _attributes(_NAME),
    "Agent": _attributes(_NAME),
    "Identity": _attributes(
        _NAME,
        Attribute("trust_domain", "String", "of a SPIFFE id"),
    ),
    "Person": _attributes(
        _NAME,
        Attribute("groups", "Set<String>", "that the person is a member of"),
    ),
    "Binary": _attributes(
        Attribute("path", "String", "the kernel's path; as its id", sure=True),
        Attribute("name", "String", "its last part", sure=True),
        Attribute("digest", "String", "sha256:... of the file"),
        Attribute(
            "upper", "Bool", "it came after the image: writable layer, or memory (tmpfs, memfd)"
        ),
    ),
    "Path": _attributes(
        Attribute("path", "String", "the kernel's path; as its id", sure=True),
        Attribute("name", "String", "its last part", sure=True),
        Attribute("plugin", "String", "kind of code that it stands for, as hw.plugin.kind"),
        Attribute(
            "upper", "Bool", "it came after the image: writable layer, or memory (tmpfs, memfd)"
        ),
    ),
    "Host": _attributes(
        Attribute("name", "String", "the name asked for, lower case; the id without port", True),
        _PORT,
    ),
    "Address": _attributes(
        Attribute("ip", "ipaddr", "the id without port; IPv4 also where it came mapped in IPv6"),
        _PORT,
        Attribute(
            "path",
            "String",
            "of a Unix socket, below /run rather than /var/run; @NAME if it is abstract",
        ),
    ),
    "Tool": _attributes(
        Attribute("name", "String", "as the server lists it; the id after SERVER/", sure=True),
        Attribute("lower", "String", "the name in lower case, for patterns", sure=True),
        Attribute("server", "String", "of MCP; the id before /NAME"),
    ),
    "Server": _attributes(
        _NAME,
        Attribute("transport", "String", "stdio or http"),
    ),
    "Model": _attributes(
        Attribute("name", "String", "as asked for; the id after PROVIDER/", sure=True),
        Attribute("provider", "String", "the id before /NAME"),
    ),
    "Secret": _attributes(
        Attribute("name", "String", "its path, variable or name; as its id", sure=True),
        Attribute("kind", "String", "class of such places, e.g. cloud_credentials: secrets.md"),
    ),
}

CONTEXT: dict[str, Attribute] = _attributes(
    Attribute(
        "labels",
        "Set<String>",
        "where the process's information came from: secret, private, untrusted, ...",
        sure=True,
    ),
    Attribute("hour", "Long", "0 to 23, local time of the agent", sure=True),
    Attribute("weekday", "String", "mon, tue, wed, thu, fri, sat or sun, local time", sure=True),
    Attribute("kind", "String", "of workload: its label hullwatch.kind, or told from its image"),
    Attribute("image", "String", "reference of the container's image"),
    Attribute("image_digest", "String", "sha256:... of the image"),
    Attribute("container", "String", "the container's name"),
    Attribute("namespace", "String", "of Kubernetes"),
    Attribute("program", "String", "path of the program that acts"),
    Attribute("parent", "String", "path of the program that started it"),
    Attribute("command", "String", "exec: the new command line, its words joined by spaces"),
    Attribute("uid", "Long", "effective user id"),
    Attribute("tool_call", "String", "name of the tool whose call this is done for"),
    Attribute("server", "String", "MCP server that serves the call"),
    Attribute("arguments", "String", "hash of the call's arguments"),
    Attribute("signals", "Set<String>", "what the gateway saw in the tool's definition or answers"),
    Attribute("secret_kinds", "Set<String>", "kinds of secrets in the arguments or the prompt"),
    Attribute("definition", "String", "the tool's, against its pin: pinned, new or changed"),
    Attribute("privilege", "String", "privilege: setuid, capability, ptrace, mount, bpf, module"),
    Attribute("bytes", "Long", "that would leave, where it is known beforehand"),
    Attribute(
        "first_seen",
        "Bool",
        "no container of the image did this before; a locked baseline does not have it",
    ),
    Attribute("baseline", "String", "of the image: none, learning or locked"),
)

# Action -> kinds of resource that it is asked about. Any principal may be the one who acts.
APPLIES: dict[str, tuple[str, ...]] = {
    "exec": ("Binary",),
    "open-read": ("Path",),
    "open-write": ("Path",),
    "connect": ("Host", "Address"),
    "listen": ("Address",),
    "tool-call": ("Tool", "Server"),
    "model-call": ("Model",),
    "use-secret": ("Secret",),
    "load-plugin": ("Path",),
    "privilege": ("Binary",),
}
assert tuple(APPLIES) == ACTIONS and tuple(ENTITIES) == PRINCIPALS + RESOURCES

# Part of an image's repository name -> kind of workload, the first that fits.
KINDS: tuple[tuple[str, str], ...] = (
    *((part, "model-server") for part in ("vllm", "ollama", "text-generation", "tritonserver")),
    *((part, "model-server") for part in ("sglang", "llama.cpp", "llama-cpp", "lmdeploy")),
    *((part, "model-server") for part in ("localai", "text-embeddings", "model-server")),
    *((part, "code-interpreter") for part in ("code-interpreter", "interpreter", "jupyter")),
    *((part, "code-interpreter") for part in ("e2b", "code-sandbox", "notebook")),
    *((part, "rag-worker") for part in ("rag", "haystack", "llamaindex", "llama-index")),
    *((part, "rag-worker") for part in ("unstructured", "ingest", "retriever")),
    *((part, "agent") for part in ("agent", "langgraph", "crewai", "autogen", "openhands")),
    *((part, "agent") for part in ("mcp", "assistant", "claude-code", "aider", "goose")),
)

_INT64 = 1 << 63
_VAR_RUN = "/var/run/"


def cedar() -> str:
    """The schema in Cedar's own syntax."""
    lines = ["// Written by `hullwatch policy schema`; the tables are in decide/schema.py.", ""]
    lines += ["type Asked = {", *_rows(CONTEXT), "};", ""]
    for kind, attributes in ENTITIES.items():
        lines += [f"entity {kind} = {{", *_rows(attributes), "};"]
    principals = ", ".join(PRINCIPALS)
    for action, kinds in APPLIES.items():
        lines += [
            "",
            f'action "{action}" appliesTo {{',
            f"  principal: [{principals}],",
            f"  resource: [{', '.join(kinds)}],",
            "  context: Asked,",
            "};",
        ]
    return "\n".join(lines) + "\n"


def _rows(attributes: Mapping[str, Attribute]) -> Iterable[str]:
    for one in attributes.values():
        yield f'  @doc("{one.doc}")'
        yield f"  {one.name}{'' if one.sure else '?'}: {one.type},"


def clean(text: object) -> str:
    """Text that Cedar takes: bytes that are no UTF-8 (lone surrogates here) become `\\udcff`."""
    said = str(text)
    return said if said.isascii() else said.encode("utf-8", "backslashreplace").decode()


def conform(attribute: Attribute, value: Any) -> Any:
    """The value as the schema has it, hashable; None if it is missing or of another type."""
    match attribute.type:
        case "Bool":
            return value if value is True or value is False else None
        case "Long":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return value if whole and -_INT64 <= value < _INT64 else None
        case "String":
            return clean(value) if isinstance(value, str) else None
        case "Set<String>":
            if not isinstance(value, tuple | list | set | frozenset):
                return None
            if not all(isinstance(one, str) for one in value):
                return None
            return tuple(sorted({clean(one) for one in value}))
        case _:
            return _ip(value)


def _ip(value: Any) -> str | None:
    try:
        found = ipaddress.ip_address(str(value))
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    # Cedar has no zones (fe80::1%eth0).
    return str(mapped or found).partition("%")[0]


def derived(kind: str, ident: str) -> dict[str, Any]:
    """The attributes that follow from an entity's id; what the asker says comes before them."""
    made = _DERIVED.get(kind)
    return made(ident) if made else {"name": ident}


def kind_of(image: str) -> str | None:
    """What kind of workload an image is, as far as its name tells."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()
    return next((kind for part, kind in KINDS if part in name), None)


def _file(ident: str) -> dict[str, Any]:
    return {"path": ident, "name": posixpath.basename(ident)}


def _port(ident: str) -> tuple[str, dict[str, Any]]:
    """`host:1`, `1.2.3.4:1`, `[::1]:1` and each without port, apart."""
    host, colon, port = ident.rpartition(":")
    if colon and port.isdecimal() and len(port) <= 5 and (host[-1:] == "]" or ":" not in host):
        return host.strip("[]"), {"port": int(port)}
    return ident.strip("[]"), {}


def is_socket(ident: str) -> bool:
    """Whether an Address is a Unix socket's."""
    return ident[:1] in ("/", "@")


def socket_path(path: str) -> str:
    """`/var/run` is another name of `/run`: both mean the same socket."""
    return path.removeprefix("/var") if path.startswith(_VAR_RUN) else path


def _host(ident: str) -> dict[str, Any]:
    name, port = _port(ident)
    return {"name": name.lower().rstrip("."), **port}


def _address(ident: str) -> dict[str, Any]:
    if is_socket(ident):
        return {"path": socket_path(ident)}
    ip, port = _port(ident)
    return {"ip": ip, **port}


def _under(above: str, ident: str) -> dict[str, Any]:
    first, slash, rest = ident.partition("/")
    return {above: first, "name": rest} if slash else {"name": ident}


def _tool(ident: str) -> dict[str, Any]:
    made = _under("server", ident)
    return {**made, "lower": made["name"].lower()}


def _identity(ident: str) -> dict[str, Any]:
    domain = ident.removeprefix("spiffe://").partition("/")[0]
    return {"name": ident, **({"trust_domain": domain} if ident.startswith("spiffe://") else {})}


_DERIVED: dict[str, Callable[[str], dict[str, Any]]] = {
    "Identity": _identity,
    "Binary": _file,
    "Path": _file,
    "Host": _host,
    "Address": _address,
    "Tool": _tool,
    "Model": partial(_under, "provider"),
}


def tables() -> str:
    """The schema as docs/write-a-policy.md has it."""
    lines = ["| action | is asked about |", "| --- | --- |"]
    lines += [f"| `{action}` | {', '.join(kinds)} |" for action, kinds in APPLIES.items()]
    lines += ["", "| of | attribute | type | holds |", "| --- | --- | --- | --- |"]
    for owner, attributes in {"context": CONTEXT, **ENTITIES}.items():
        for one in attributes.values():
            name = f"`{one.name}`" + ("" if one.sure else "?")
            lines.append(f"| {owner} | {name} | {one.type} | {one.doc} |")
    return "\n".join(lines) + "\n"
