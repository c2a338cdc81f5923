"""What the kernel answers is what the engine answers, for any set and any question."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Iterable

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.plan import Plan
from hullwatch.decide.policy import PolicyError
from hullwatch.decide.question import Effect, Entity, Fail, Mode
from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.detect.row import Event, Object, Row
from hullwatch.guarding import Named
from hullwatch.questions import Act, Actor, asked, workload_name
from hullwatch.sensor.dictionary import address_of
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.wire import Class, Privilege
from support.guard_maps import PASSES, STOPPED, TOLD, Steered

RESOLVERS = ("10.9.9.9", "127.0.0.53")
WORKLOADS = (
    Workload(
        cgroup=101, cgroup_path="/1", state="resolved", container_id="1" * 64,
        name="one", image="ghcr.io/acme/agent:1", image_digest="sha256:1",
    ),
    Workload(
        cgroup=102, cgroup_path="/2", state="resolved", container_id="2" * 64,
        name="two", image="debian:12", labels={"hullwatch.kind": "model-server"}, namespace="n",
    ),
    Workload(cgroup=103, cgroup_path="/3", state="resolved", container_id="3" * 64),
)  # fmt: skip
RANKS = (PASSES, TOLD, STOPPED)

OF_WHO = (
    *('context.labels.contains("secret")', 'context.labels.containsAny(["private", "untrusted"])'),
    *('context.labels.contains("pii")', "context.labels.isEmpty()", 'context.labels == ["secret"]'),
    'context.labels.containsAll(["secret", "private"])',
    '["secret"].containsAll(context.labels)',
    *('context has kind && context.kind == "agent"', "context has image", "true", "false"),
    *('context has container && context.container == "two"', "context has namespace"),
    *('context has kind && context.kind like "model*"', 'principal.name == "one"'),
    *('context has program && context.program == "/x/a"', "context.hour + 1 > 0"),
    *('principal == Workload::"two"', "principal is Workload", "context.hour >= 0"),
    "(if context.labels.contains(\"secret\") then 1 else 2) < 2",
)  # fmt: skip
OF_FILES = (
    *('resource.path == "/x/a"', 'resource.name == "a"', 'resource.path like "/x/*"'),
    *('resource.name like "*b"', 'resource.path like "*/y/*"', 'resource.path like "/x*a"'),
    *('["a", "sh"].contains(resource.name)', 'resource.name like "*"', 'resource.name like "s*h"'),
    *('["/x/y/b", "/sh"].contains(resource.path)', 'resource.path like "*"', 'resource.name == ""'),
    *('"sh" == resource.name', 'resource.path != "/x/y/b"', "resource has upper && resource.upper"),
    *("resource has upper && resource.upper == context.labels.contains(\"secret\")",),
    '(if resource.name == "sh" then "a" else "b") == "a"',
    '(if resource.path == "/x/a" then "a" else "b") like "a*"',
    '["/x/a"].contains(if resource.name == "a" then "/x/a" else "/")',
    *('resource.path == resource.name', 'resource.name == "\u00e4"', '"/x/a" like "*a"'),
)  # fmt: skip
OF_HOSTS = (
    *('resource.name like "*.example"', 'resource.name like "*.de"'),
    'resource.name == "h.example"',
    *('resource.name == "localhost"', 'resource.name == "10.1.0.1"', 'resource.name != "a.de"'),
    *("resource has port && resource.port == 443", 'resource.name == "2001:db8::1"'),
    *('["a.de", "10.1.2.3"].contains(resource.name)', 'resource.name like "*.*"'),
    *("resource has port && [53, 49151].contains(resource.port)", 'resource.name like "*"'),
)  # fmt: skip
OF_ADDRESSES = (
    *('resource has ip && resource.ip.isInRange(ip("10.0.0.0/8"))',),
    *('resource has ip && resource.ip.isInRange(ip("10.1.0.0/16"))',),
    *("resource has ip && resource.ip.isLoopback()", "resource has ip && resource.ip.isIpv6()"),
    *("resource has ip && resource.ip.isMulticast()", "resource has ip && resource.ip.isIpv4()"),
    *('resource has ip && resource.ip == ip("10.1.0.1")', "resource has port"),
    *('resource has ip && resource.ip.isInRange(ip("::ffff:a01:0/112"))',),
    *('resource has ip && resource.ip.isInRange(ip("2001:db8::/32"))',),
    *('resource has ip && [ip("10.1.2.3"), ip("::1")].contains(resource.ip)',),
    *('resource has ip && resource.ip.isInRange(ip("0.0.0.0/0"))',),
    *("resource has port && resource.port == 443", "resource has port && resource.port != 49151"),
    "resource has port && [53, 70000].contains(resource.port)",
    'resource has ip && ip("10.1.2.3").isInRange(resource.ip)',
    *("resource has port && resource.port > 79", "resource has port && resource.port == 0"),
    'resource has path && resource.path like "*docker.sock"',
)  # fmt: skip
OF_SOCKETS = (
    *('resource has path && resource.path == "/run/docker.sock"', "resource has path"),
    *('resource has path && resource.path like "/var/run/d*"', "resource has ip"),
    *('resource has path && ["/x/a", "/run/x", "@x"].contains(resource.path)', "resource has port"),
    *('resource has path && resource.path like "*a"', '!(resource has path)'),
    *('resource has path && resource.path like "@*"', 'resource has path && resource.path != "@x"'),
)  # fmt: skip


def conditions(atoms: Iterable[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        st.sampled_from(tuple(atoms)),
        lambda inner: st.one_of(
            st.builds("({} && {})".format, inner, inner),
            st.builds("({} || {})".format, inner, inner),
            st.builds("!({})".format, inner),
            st.builds("(if {} then {} else {})".format, inner, inner, inner),
        ),
        max_leaves=4,
    )


def policies(
    actions: tuple[str, ...], kinds: tuple[str, ...], atoms: tuple[str, ...]
) -> st.SearchStrategy[str]:
    heads = tuple(f"resource is {kind}" for kind in kinds)
    if kinds[0] in ("Binary", "Path"):
        heads += tuple(f'resource == {kind}::"/x/a"' for kind in kinds)
    return st.builds(
        lambda notes, mode, fail, who, what, thing, when, unless: (
            f"{fail} {mode} {notes} ({who}, {what}, {thing})"
            f" when {{ {when} }}" + (f" unless {{ {unless} }};" if unless else ";")
        ),
        st.sampled_from(("permit", "forbid", '@effect("challenge") forbid')),
        st.sampled_from(("", "", '@mode("observe")')),
        st.sampled_from(('@fail("closed")', '@fail("open")')),
        st.sampled_from(
            (
                "principal",
                "principal is Workload",
                'principal == Workload::"one"',
                "principal is Agent",
            )
        ),
        st.sampled_from(
            [f'action == Action::"{one}"' for one in actions]
            + ["action in [" + ", ".join(f'Action::"{one}"' for one in actions) + "]"]
        ),
        st.sampled_from(heads),
        conditions((*atoms, *OF_WHO)),
        st.one_of(st.just(""), conditions((*atoms, *OF_WHO))),
    )


FILES = st.one_of(
    policies(
        ("exec", "privilege"), ("Binary",), tuple(one for one in OF_FILES if "upper" not in one)
    ),
    policies(("exec",), ("Binary",), OF_FILES),
    policies(("open-read", "open-write"), ("Path",), OF_FILES),
)
ENDS = st.one_of(
    policies(("connect",), ("Host",), OF_HOSTS),
    policies(("connect", "listen"), ("Address",), OF_ADDRESSES),
)
SOCKETS = st.one_of(
    policies(("connect",), ("Address",), OF_SOCKETS),
    policies(("connect",), ("Host",), OF_HOSTS),
    policies(("connect", "listen"), ("Address",), OF_ADDRESSES),
    policies(("exec",), ("Binary",), OF_FILES),
)


def steered(made: list[str], baselines: Baselines | None = None) -> Steered:
    """These in force, as the kernel has them."""
    here = Steered(RESOLVERS, baselines=baselines)
    try:
        here.apply("\n".join(made))
    except PolicyError:
        assume(False)
    here.guarding.found(WORKLOADS)
    here.turn()
    assert here.guard.generation == 1, here.said
    return here


def verdict(here: Steered, act: Act, action: str, only: tuple[str, ...] = ()) -> str:
    """Of the engine, of the policies that the kernel has. only: effects of policies that count."""
    tables = here.guarding._in_force
    assert tables is not None
    engine = tables.engine
    unheld = {
        ident
        for ident in here.guarding.unheld
        if action in tables.plan.apart.get(ident, engine.policies[ident].actions)
    }
    held = [
        one
        for one in engine.policies.values()
        if one.id not in unheld and (not only or one.does in only)
    ]
    name = workload_name(act.actor.workload)
    socket = action == "connect" and act.object[:1] in ("/", "@")
    loose = {
        one.mode
        for one in engine.policies.values()
        if one.id in unheld
        and one.does is Effect.ALLOW
        and action in one.actions
        and one.lists(Entity("Workload", name), socket)
    }
    worst = PASSES
    for one in asked(act, RESOLVERS):
        if one.questions[0].action != action:
            continue
        # A list that has a permit which the kernel does not know is none there.
        sure = one.listed and Mode.ENFORCE not in loose
        said = Engine(held).decide_any(one.questions, listed=sure)
        wanted = Engine(held).decide_any(one.questions, listed=one.listed and not loose).wanted
        by = [engine.policies[ident] for ident in said.policies]
        if said.effect is Effect.BLOCK or any(
            policy.does is Effect.CHALLENGE
            and policy.mode is Mode.ENFORCE
            and policy.fail is Fail.CLOSED
            for policy in by
            if said.effect is Effect.CHALLENGE
        ):
            found = STOPPED
        else:
            found = PASSES if wanted is Effect.ALLOW else TOLD
        worst = max(worst, found, key=RANKS.index)
    return worst


PRIVILEGES = {
    Privilege.PTRACE: Class.PTRACE,
    Privilege.MOUNT: Class.MOUNT,
    Privilege.BPF: Class.BPF,
    Privilege.MODULE: Class.MODULE,
    Privilege.SETUID: Class.SETID,
    Privilege.CAPABILITY: Class.CAPSET,
}
PATHS = (
    *("/", "/x/a", "/x/y/b", "/x/y/sh", "/sh", "/sxh", "/x/ab", "/x/a/z", "/y/a", "/z", "/x/y/"),
    *("/x/a\n", "/x/\u00e4/a", "memfd:sh", "/x/y/y/a"),
)
LABELS = ((), ("secret",), ("private", "untrusted"), ("private", "secret"))
SEEDS = st.integers(0, 1 << 32)
MANY = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@MANY
@given(st.lists(FILES, min_size=1, max_size=5), SEEDS)
def test_paths(made: list[str], seed: int):
    here = steered(made)
    chosen = random.Random(seed)
    for _ in range(12):
        path, second = chosen.choice(PATHS), chosen.choice((None, *PATHS))
        who, labels = chosen.choice(WORKLOADS), chosen.choice(LABELS)
        upper = chosen.random() < 0.5
        actor = Actor(who, path, labels=labels)
        for action, cls, flags in (
            ("exec", Class.EXEC, 0),
            ("open-read", Class.OPEN, 0),
            ("open-write", Class.OPEN, 1),
        ):
            act = Act(int(cls), path, actor, flags, upper=upper)
            expected = verdict(here, act, action)
            if second is not None:
                more = verdict(here, act._replace(object=second), action, ("block", "challenge"))
                expected = max(expected, more, key=RANKS.index)
            said = here.kernel.path(
                who.cgroup,
                action,
                path.encode(),
                second=None if second is None else second.encode(),
                labels=bits_of(labels),
                upper=upper,
            )
            assert said == expected, (action, path, second, who.name, labels, upper, made)
        if any("upper" in one for one in made):
            continue  # events of what follows do not tell it
        for number, cls in PRIVILEGES.items():
            expected = verdict(here, Act(int(cls), "", actor), "privilege")
            said = here.kernel.path(
                who.cgroup, "privilege", path.encode(), labels=bits_of(labels), privilege=number
            )
            assert said == expected, (number, path, who.name, labels, made)


OF_SECRETS = (
    *('resource has kind && resource.kind == "cloud_credentials"', "resource has kind"),
    'resource has kind && ["ssh_private_key", "env_file"].contains(resource.kind)',
    *('resource has kind && resource.kind like "*_key"', 'resource.kind != "keyring"'),
    *('resource.kind == "no_such_kind"', 'resource.name == "/x/a"', 'resource.kind like "*"'),
)
SECRETS = st.one_of(
    policies(("use-secret",), ("Secret",), OF_SECRETS),
    policies(("open-read",), ("Path",), OF_FILES),
)
PLACES = (
    *("/root/.aws/credentials", "/root/.ssh/id_rsa", "/root/.ssh/id_rsa.pub", "/x/.ENV", "/x/a"),
    *("/etc/shadow", "/run/secrets/db", "/x/y/b", "/root/.ssh/config", "/usr/lib/token", "/sh"),
)


@MANY
@given(st.lists(SECRETS, min_size=1, max_size=5), SEEDS)
def test_secrets(made: list[str], seed: int):
    here = steered(made)
    chosen = random.Random(seed)
    for _ in range(16):
        path, second = chosen.choice(PLACES), chosen.choice((None, *PLACES))
        who, labels = chosen.choice(WORKLOADS), chosen.choice(LABELS)
        upper = chosen.random() < 0.5
        act = Act(int(Class.OPEN), path, Actor(who, labels=labels), upper=upper)
        for action in ("open-read", "use-secret"):
            expected = verdict(here, act, action)
            if second is not None:
                more = verdict(here, act._replace(object=second), action, ("block", "challenge"))
                expected = max(expected, more, key=RANKS.index)
            said = here.kernel.path(
                who.cgroup,
                action,
                path.encode(),
                second=None if second is None else second.encode(),
                labels=bits_of(labels),
                upper=upper,
            )
            assert said == expected, (action, path, second, who.name, labels, upper, made)


def test_where_a_secrets_path_cannot_be_told_it_may_be_any():
    here = steered(
        [
            'forbid (principal, action == Action::"use-secret", resource is Secret)'
            ' when { resource has kind && resource.kind == "keyring" };'
        ]
    )
    assert here.kernel.path(101, "use-secret", b"/x/.env") == PASSES
    assert here.kernel.path(101, "use-secret", b"/x/.env", unknown=True) == STOPPED
    assert here.kernel.path(101, "use-secret", b"/x", second=b"/a.kdbx") == STOPPED


UNIX = ("/run/docker.sock", "/run/x", "/run/xx", "/var/run/docker.sock", "/x/a", "/y", "@x", "@xa")


@MANY
@given(st.lists(SOCKETS, min_size=1, max_size=5), SEEDS)
def test_sockets(made: list[str], seed: int):
    here = steered(made)
    chosen = random.Random(seed)
    for _ in range(16):
        name, who, labels = chosen.choice(UNIX), chosen.choice(WORKLOADS), chosen.choice(LABELS)
        path = f"//{name[1:]}" if name[0] == "@" else name  # as the kernel has it
        said = here.kernel.path(who.cgroup, "socket", path.encode(), labels=bits_of(labels))
        expected = verdict(
            here, Act(int(Class.CONNECT), name, Actor(who, labels=labels)), "connect"
        )
        assert said == expected, (name, who.name, labels, made)


def test_a_list_is_about_sockets_only_where_it_reads_their_path():
    hosts = 'permit (principal, action == Action::"connect", resource is Host) when { false };'
    sockets = (
        'permit (principal, action == Action::"connect", resource is Address)'
        ' when { resource has path && resource.path == "/var/run/x" };'
    )
    for made, other in (([hosts], PASSES), ([hosts, sockets], STOPPED)):
        here = steered(made)
        assert here.kernel.path(101, "socket", b"/tmp/other") == other
        assert here.kernel.path(101, "socket", b"/run/x") == PASSES
        assert here.kernel.end(101, "connect", "10.1.2.3", 443) == STOPPED


ADDRESSES = (
    *("10.1.0.1", "10.1.2.3", "10.2.0.1", "10.9.9.9", "127.0.0.1", "127.0.0.53", "0.0.0.0", "::1"),
    *("2001:db8::1", "2001:db9::1", "224.0.0.1", "ff02::1", "192.0.2.1", "fe80::"),
)
NAMES = ("h.example", "a.de", "H.Example.", "evil:1", "10.1.0.1")
PORTS = (0, 53, 80, 443, 49150, 49151)


def told_names(here: Steered, chosen: random.Random) -> dict[str, list[str]]:
    """Some addresses, and what DNS told every container that they are called."""
    names = {one: chosen.sample(NAMES, chosen.randint(0, 2)) for one in chosen.sample(ADDRESSES, 4)}
    here.guarding.named(
        Named(0, who.cgroup, ipaddress.ip_address(RESOLVERS[0]), name, (address,))
        for address, some in names.items()
        for name in some
        for who in WORKLOADS
    )
    return names


@MANY
@given(st.lists(ENDS, min_size=1, max_size=5), SEEDS)
def test_networks(made: list[str], seed: int):
    here = steered(made)
    chosen = random.Random(seed)
    names = told_names(here, chosen)
    if chosen.random() < 0.5:  # a set that comes later knows them, too
        here.apply("\n".join(made), "forbid (principal is Agent, action, resource);")
    here.turn()
    for _ in range(20):
        address, port = chosen.choice((*ADDRESSES, *names)), chosen.choice(PORTS)
        who, labels = chosen.choice(WORKLOADS), chosen.choice(LABELS)
        end = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        known = tuple(names.get(address, ()))
        for action, cls in (("connect", Class.CONNECT), ("listen", Class.LISTEN)):
            act = Act(int(cls), end, Actor(who, labels=labels), names=known)
            said = here.kernel.end(who.cgroup, action, address, port, labels=bits_of(labels))
            expected = verdict(here, act, action)
            assert said == expected, (action, end, who.name, labels, known, made)


OF_BASELINES = (
    *("context has first_seen && context.first_seen", "context has first_seen"),
    *("context has first_seen && !context.first_seen", 'context.labels.contains("secret")'),
    *('context has baseline && context.baseline == "locked"', "context has baseline"),
    'context has baseline && ["learning", "none"].contains(context.baseline)',
)
NORMAL = st.one_of(
    policies(("connect",), ("Host",), (*OF_HOSTS[:4], *OF_BASELINES)),
    policies(("connect", "exec"), ("Address",), (*OF_ADDRESSES[:4], *OF_BASELINES)),
)
DONE = (
    *("10.1.0.1:443", "10.1.2.3:80", "[2001:db8::1]:443", "h.example:443", "a.de:80", "a.de:443"),
    *("*.example:80", "{ip}:53", "127.0.0.1:443", "unix:/x/a", "{name}:80"),
)


def profiles(chosen: random.Random) -> Baselines:
    """Of two of the images: one that is locked, and one that learns."""
    found = Baselines()
    for image, locked in (("sha256:1", chosen.choice((50, None))), ("debian:12", None)):
        learning = chosen.choice((0, 0, 1 << 62))
        accepted = (("connect", "10.2.0.1:443"), ("connect", "*.de:80"))
        said = ProfileRow(image, image, 10, learning, locked, accepted if locked else (), 0)
        names = chosen.sample((*DONE, "**"), 4)
        entries = [
            EntryRow(image, "connect", name, at, at, 1, ("c",), chosen.choice((None, None, 0, 95)))
            for name in names
            for at in (chosen.choice((20, 90)),)
        ]
        found.load(said, entries)
    return found


def as_told(baselines: Baselines, act: Act) -> Act:
    """With what a baseline says: new is what it has by none of its names."""
    whose, address = act.actor.workload, address_of(act.object)
    told = [
        baselines.told(
            Row(Event(int(Class.CONNECT)), Object("", address), None, None, whose, name=name),
            time.time_ns(),
        )
        for name in act.names or (None,)
    ]
    news = [new for _, new in told]
    new = None if None in news else all(news)
    return act._replace(actor=act.actor._replace(baseline=told[0][0], first_seen=new))


@MANY
@given(st.lists(NORMAL, min_size=1, max_size=4), SEEDS)
def test_what_baselines_have(made: list[str], seed: int):
    chosen = random.Random(seed)
    baselines = profiles(chosen)
    here = steered(made, baselines)
    names = told_names(here, chosen)
    here.turn()
    for turn in range(24):
        if turn == 12:  # then it is another one
            row = EntryRow("debian:12", "connect", "192.0.2.1:443", 30, 30, 1, ())
            baselines.learn(row)
            baselines.judge("sha256:1", chosen.choice((None, 60)), ())
            here.guarding._follow_baselines()
        address, port = chosen.choice((*ADDRESSES, *names)), chosen.choice(PORTS[1:])
        who, labels = chosen.choice(WORKLOADS), chosen.choice(LABELS)
        end = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        known = tuple(names.get(address, ()))
        act = Act(int(Class.CONNECT), end, Actor(who, labels=labels), names=known)
        act = as_told(baselines, act)
        bits = bits_of(labels)
        said = here.kernel.end(who.cgroup, "connect", address, port, labels=bits)
        about = end, who.name, labels, known, act.actor.baseline, act.actor.first_seen, made
        assert said == verdict(here, act, "connect"), about


def test_of_what_no_hook_sees_it_may_be_new():
    text = 'forbid (principal, action == Action::"connect", resource)'
    text += " when { context has first_seen && context.first_seen };"
    baselines = Baselines()
    for image in ("sha256:1", "debian:12"):
        baselines.learn(EntryRow(image, "connect", "10.1.0.1:443", 10, 10, 1, ()))
    baselines.learn(EntryRow("debian:12", "connect", "**", 10, 10, 1, ()))
    here = steered([text], baselines)
    assert here.kernel.socket(101) == STOPPED
    assert here.kernel.socket(102) == here.kernel.socket(103) == PASSES


SERVERS = ("h.example", "a.de", "A.DE.", "10.1.0.1", "localhost", "x.y.example", "b", "evil/a.de")


WORSE = (PASSES, TOLD, STOPPED)


@MANY
@given(st.lists(ENDS, min_size=1, max_size=5), SEEDS)
def test_server_names(made: list[str], seed: int):
    """The connection is asked about once more, as its address and this name; so it is of events. An
    address that is forbidden itself was refused before."""
    here = steered(made)
    chosen = random.Random(seed)
    names = told_names(here, chosen)
    here.turn()
    for _ in range(20):
        address, port = chosen.choice((*ADDRESSES, *names)), chosen.choice(PORTS[2:])
        name = chosen.choice(SERVERS)
        who, labels = chosen.choice(WORKLOADS), chosen.choice(LABELS)
        end = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        opened = Act(
            int(Class.CONNECT), end, Actor(who, labels=labels), names=tuple(names.get(address, ()))
        )
        asks = opened._replace(cls=int(Class.TLS), names=(name,))
        bits, lower = bits_of(labels), name.lower().encode()
        said = (
            here.kernel.end(who.cgroup, "connect", address, port, labels=bits),
            here.kernel.hello(who.cgroup, address, port, lower, labels=bits),
        )
        expected = verdict(here, opened, "connect"), verdict(here, asks, "connect")
        about = end, who.name, labels, opened.names, name, made
        if here.guarding._in_force.plan.hosts:  # type: ignore[union-attr]
            assert max(map(WORSE.index, said)) == max(map(WORSE.index, expected)), about
            assert WORSE.index(said[1]) <= WORSE.index(expected[1]), about
        else:
            assert said[1] == PASSES
            # Then it makes no difference what a host is called.
            assert expected[1] == verdict(here, opened._replace(names=()), "connect"), about


def test_which_tool_it_is_may_be_known_for_others_alone():
    """For what no cell of the kernel's depends on, but whoever asks about opens."""
    text = (
        'forbid (principal, action == Action::"{}", resource)'
        ' when {{ context has tool_call && context.tool_call == "x" }};'
    )
    for action, tools, calls in (
        ("open-read", True, True),
        ("load-plugin", False, True),
        ("tool-call", False, False),
    ):
        plan = Plan(Engine.of([(text.format(action), "p.cedar")]))
        assert (plan.tools, plan.calls) == (tools, calls), action
