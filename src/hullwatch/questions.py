"""What policies are asked about an action: here, and nowhere else, an event or a call becomes
questions, whether it is about to happen or was stored.

The principal is the workload by its container's name, as `hullwatch tree` shows it. A connection is
asked about as its address and as each of its names at once, `Engine.decide_any`; then, where it
asks for a server by TLS, as its address and that name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from hullwatch.agent.semconv import ARGUMENTS_HASH, SECRET_KINDS
from hullwatch.context.call import Call
from hullwatch.context.enriched import ProcessImage
from hullwatch.context.workload import Workload
from hullwatch.decide.question import Entity, Question, Value
from hullwatch.decide.schema import CONTEXT
from hullwatch.detect.baseline.objects import dns_object, end_object
from hullwatch.detect.row import Row
from hullwatch.opened import OPENS, READING, WRITING, loaded_as, things
from hullwatch.sensor.dictionary import Address, address_of
from hullwatch.sensor.labels import names_of
from hullwatch.sensor.wire import Class, Mark, ProcMark

__all__ = [
    "Act",
    "Actor",
    "Asked",
    "act_of",
    "asked",
    "asked_of_call",
    "classes_of",
    "needs_object",
    "never_told",
    "of_workload",
    "said_of_call",
    "workload_name",
]

KIND_LABEL = "hullwatch.kind"
_DNS_PORT = 53
_ACCMODE = 3
_OPENS = (READING, WRITING, OPENS, OPENS)
"""By the access mode of an open. 3, for ioctl alone, needs both rights as the kernel checks it."""

_OF_WORKLOADS = ("labels", "kind", "image", "image_digest", "container", "namespace")
_OF_MOMENTS = ("hour", "weekday", "tool_call", "server")
_TOLD_OF_EVENTS = frozenset(
    (
        *(*_OF_WORKLOADS, *_OF_MOMENTS, "program", "parent", "command", "uid", "privilege"),
        *("first_seen", "baseline"),
    )
)
_TOLD_OF_CALLS = frozenset((*_OF_WORKLOADS, *_OF_MOMENTS, "baseline", "arguments", "secret_kinds"))
_OF_CALLS = ("tool-call", "model-call")
_NEVER = ("digest", "trust_domain", "groups", "transport")  # of things


class Actor(NamedTuple):
    """Who acts. program, parent: paths of the programs that it and its parent run, '': not known;
    of an exec, the program before it. comm: its name, 15 bytes. call: the one it acts for, where
    that is certain. baseline: state of its image's, '': not known; first_seen: by that."""

    workload: Workload
    program: str = ""
    parent: str = ""
    comm: str = ""
    uid: int | None = None
    labels: tuple[str, ...] = ()
    call: Call | None = None
    baseline: str = ""
    first_seen: bool | None = None


class Act(NamedTuple):
    """What is done: one event's class and first object, as text. flags: of an open. command: the
    new one of an exec. names: that DNS told this container for the address; of a TLS hello, the one
    that it asks for. upper: the file is of the container's writable layer; None: not known. setuid:
    of an exec, whether its file made it another user."""

    cls: int
    object: str
    actor: Actor
    flags: int = 0
    command: str = ""
    names: tuple[str, ...] = ()
    upper: bool | None = None
    directory: bool = False
    setuid: bool = False


class Asked(NamedTuple):
    """The questions about one action, for `decide_any`. listed: a list of permits counts here."""

    questions: tuple[Question, ...]
    listed: bool = True


def asked(act: Act, resolvers: Collection[str] | None = None) -> Iterator[Asked]:
    """All that policies are asked about an event; nothing for a class that none speaks of, nor
    where its object did not arrive.

    resolvers: addresses whose port 53 no list of permits is about; None: every one is a resolver.
    """
    form = _FORMS.get(act.cls)
    if form is None or (form.of_object and not act.object):
        return iter(())
    return form.made(act, resolvers)


def classes_of(actions: Collection[str]) -> tuple[int, ...]:
    """The classes of events that these actions are seen in."""
    return tuple(cls for cls, form in _FORMS.items() if not set(actions).isdisjoint(form.actions))


def needs_object(cls: int) -> bool:
    """Whether nothing can be asked about an event of the class without its object."""
    return _FORMS[cls].of_object


def never_told(actions: Iterable[str], reads: Collection[str] | None) -> tuple[str, ...]:
    """What a policy of these actions reads (None: anything) and no question here has."""
    told = frozenset[str]().union(
        *(_TOLD_OF_CALLS if action in _OF_CALLS else _TOLD_OF_EVENTS for action in actions)
    )
    missing = [*(name for name in CONTEXT if name not in told), *_NEVER]
    return tuple(name for name in missing if reads is None or name in reads)


def act_of(row: Row, names: Iterable[str] = ()) -> Act:
    """Of an event as rules see it. names: those known beside the row's own. What the image's
    baseline says, the caller may add."""
    event, image = row.event, row.image
    above = image.parent if image is not None else None
    tools = [call for call in row.calls if call.kind == "tool"]
    starts = event.cls == Class.EXEC
    # An exec row has the new image; until then the process was a copy of its parent.
    before = above if starts else image
    actor = Actor(
        row.workload,
        before.exepath if before else "",
        above.exepath if above else "",
        before.name if before else "",
        image.euid if image is not None else None,
        names_of(event.labels),
        tools[0] if len(row.calls) == len(tools) == 1 else None,
    )
    upper = _upper(event.marks)
    obj, said = row.obj, row.name
    if event.cls == Class.TLS:  # its server's end comes second
        obj, said = row.obj2, row.obj.text if row.obj is not None else None
    if starts:
        later = ProcMark.UPPER | ProcMark.MEMFD
        upper = bool(image is not None and image.marks & later) or None
    return Act(
        event.cls,
        (str(obj.address) if obj.address is not None else obj.text) if obj is not None else "",
        actor,
        event.flags,
        " ".join(image.argv) if starts and image is not None else "",
        tuple(dict.fromkeys(name for name in (said, *names) if name)),
        upper,
        bool(event.marks & Mark.DIR),
        starts and image is not None and _is_setuid(image),
    )


def _is_setuid(image: ProcessImage) -> bool:
    return bool(image.marks & ProcMark.SETID) and image.uid != image.euid


def workload_name(workload: Workload) -> str:
    """What a workload is called, in policies and on the screen."""
    if workload.state == "host":
        return "host"
    ident = (workload.container_id or "")[:12]
    return workload.name or workload.pod or ident or f"cgroup {workload.cgroup}"


def asked_of_call(call: Call, workload: Workload | None, baseline: str = "") -> Iterator[Asked]:
    """Of a tool's or a model's call. workload: whose it is; None or the host's: who asks is known
    by the name that it gives itself. baseline: as of an Actor."""
    inside = workload is not None and workload.state != "host"
    who = Entity("Agent", call.client or "unknown")
    context: dict[str, Value] = {"labels": ()}
    if workload is not None and inside:
        who, context = Entity("Workload", workload_name(workload)), of_workload(workload)
        context["labels"] = ()
        if baseline:
            context["baseline"] = baseline
    arguments, kinds = said_of_call(call)
    if arguments:
        context["arguments"] = arguments
    if kinds:
        context["secret_kinds"] = tuple(kinds.split(","))
    if call.kind == "tool":
        context |= {"tool_call": call.name, "server": call.server}
        above, action, kind = "server", "tool-call", "Tool"
    elif call.kind == "model":
        above, action, kind = "provider", "model-call", "Model"
    else:
        return
    attributes: dict[str, Value] = {"name": call.name}
    if call.server:
        attributes[above] = call.server
    resource = Entity(kind, f"{call.server}/{call.name}", attributes)
    yield Asked((Question(principal=who, action=action, resource=resource, context=context),))


def said_of_call(call: Call) -> tuple[str, str]:
    """Hash of its arguments, and kinds of secrets in them by commas: '' where there are none."""
    found = (call.attributes.get(name, "") for name in (ARGUMENTS_HASH, SECRET_KINDS))
    arguments, kinds = map(str, found)
    return arguments, kinds


# --- parts of a question ------------------------------------------------------------------


def of_workload(workload: Workload) -> dict[str, Value]:
    known = {
        "kind": workload.labels.get(KIND_LABEL) or workload.pod_labels.get(KIND_LABEL),
        "image": workload.image,
        "image_digest": workload.image_digest,
        "container": workload.name,
        "namespace": workload.namespace,
    }
    return {name: value for name, value in known.items() if value}


def _context(actor: Actor) -> dict[str, Value]:
    context = of_workload(actor.workload)
    context["labels"] = actor.labels
    if actor.program:
        context["program"] = actor.program
    if actor.parent:
        context["parent"] = actor.parent
    if actor.uid is not None:
        context["uid"] = actor.uid
    if actor.baseline:
        context["baseline"] = actor.baseline
    if actor.first_seen is not None:
        context["first_seen"] = actor.first_seen
    if actor.call is not None:
        context["tool_call"] = actor.call.name
        if actor.call.server:
            context["server"] = actor.call.server
    return context


def _one(
    act: Act, action: str, kind: str, ident: str, about: dict[str, Value], **more: Any
) -> Asked:
    return Asked((_question(act, action, Entity(kind, ident, about), **more),))


def _question(act: Act, action: str, resource: Entity, **more: Any) -> Question:
    who = Entity("Workload", workload_name(act.actor.workload))
    context = _context(act.actor) | more
    return Question(principal=who, action=action, resource=resource, context=context)


def _layer(act: Act) -> dict[str, Value]:
    return {} if act.upper is None else {"upper": act.upper}


def _upper(marks: int) -> bool | None:
    return True if marks & Mark.UPPER else False if marks & Mark.LOWER else None


# --- what each class of events is asked as ------------------------------------------------


def _exec(act: Act, _: object) -> Iterator[Asked]:
    more = {"command": act.command} if act.command else {}
    yield _one(act, "exec", "Binary", act.object, _layer(act), **more)
    if act.setuid:
        yield _one(act, "privilege", "Binary", act.object, {}, privilege="setuid")


def _open(act: Act, _: object) -> Iterator[Asked]:
    actions = _OPENS[act.flags & _ACCMODE]
    plugin = loaded_as(act.object, act.actor.program, act.actor.comm)
    for action, thing in things(act.object, act.upper, plugin).items():
        if action in actions and (action.startswith("open-") or not act.directory):
            yield Asked((_question(act, action, thing),))


def _mmap(act: Act, _: object) -> Iterator[Asked]:
    plugin = loaded_as(act.object, act.actor.program, act.actor.comm, mapped=True)
    if thing := things(act.object, act.upper, plugin).get("load-plugin"):
        yield Asked((_question(act, "load-plugin", thing),))


def _connect(act: Act, resolvers: Collection[str] | None) -> Iterator[Asked]:
    address = address_of(act.object)
    end = _end(address)
    if address is None or not end:
        return
    if address.ip is None:
        yield _one(act, "connect", "Address", end, {})
        return
    host = end.removesuffix(f":{address.port}")
    mapped = getattr(address.ip, "ipv4_mapped", None) or address.ip
    own = mapped.is_loopback or mapped.is_unspecified
    resolver = address.port == _DNS_PORT and (resolvers is None or host.strip("[]") in resolvers)
    names = [dns_object(name) for name in act.names] or (["localhost"] if own else [host])
    things = [Entity("Address", end)]
    if not resolver:  # it is how names are found
        things += [Entity("Host", _named(name, address.port)) for name in dict.fromkeys(names)]
    questions = tuple(_question(act, "connect", thing) for thing in things)
    yield Asked(questions, listed=not own and not resolver)


def _hello(act: Act, resolvers: Collection[str] | None) -> Iterator[Asked]:
    """Which server a TLS client asks for, it chooses: the connection is asked about once more, as
    if it were called that and nothing else. So a name that is said permits nothing."""
    return _connect(act, resolvers) if any(act.names) else iter(())


def _named(host: str, port: int) -> str:
    """A name, too, may have a colon in it: a container chooses what it asks for."""
    return f"{host}:{port}" if ":" not in host or host[:1] == "[" else f"[{host}]:{port}"


def _listen(act: Act, _: object) -> Iterator[Asked]:
    if end := _end(address_of(act.object)):
        yield _one(act, "listen", "Address", end, {})


def _end(address: Address | None) -> str:
    """As policies name it: IPv4 that came mapped in IPv6 is IPv4; a Unix socket by its path."""
    if address is None:
        return ""
    return address.path if address.ip is None else end_object(address)


def _privilege(kind: str) -> Callable[[Act, object], Iterator[Asked]]:
    def made(act: Act, _: object) -> Iterator[Asked]:
        yield _one(act, "privilege", "Binary", act.actor.program, {}, privilege=kind)

    return made


class _Form(NamedTuple):
    """of_object: nothing can be asked without it."""

    actions: tuple[str, ...]
    made: Callable[[Act, Collection[str] | None], Iterator[Asked]]
    of_object: bool = True


_FORMS: dict[int, _Form] = {
    int(Class.EXEC): _Form(("exec", "privilege"), _exec),
    int(Class.OPEN): _Form(OPENS, _open),
    int(Class.MMAP): _Form(("load-plugin",), _mmap),
    int(Class.CONNECT): _Form(("connect",), _connect),
    int(Class.SEND): _Form(("connect",), _connect),
    int(Class.TLS): _Form(("connect",), _hello),
    int(Class.LISTEN): _Form(("listen",), _listen),
    **{
        int(cls): _Form(("privilege",), _privilege(kind), of_object=False)
        for cls, kind in (
            (Class.SETID, "setuid"),
            (Class.CAPSET, "capability"),
            (Class.PTRACE, "ptrace"),
            (Class.VM_ACCESS, "ptrace"),
            (Class.MOUNT, "mount"),
            (Class.UMOUNT, "mount"),
            (Class.PIVOT_ROOT, "mount"),
            (Class.BPF, "bpf"),
            (Class.MODULE, "module"),
        )
    },
}
