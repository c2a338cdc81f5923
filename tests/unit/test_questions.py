"""What policies are asked: of each class of events, live as from the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import pytest

from hullwatch import questions
from hullwatch.context.call import Call
from hullwatch.context.workload import Workload
from hullwatch.decide.engine import Engine
from hullwatch.decide.question import ACTIONS, Question
from hullwatch.decide.schema import APPLIES, CONTEXT, ENTITIES, conform, derived
from hullwatch.detect.baseline.kinds import kind_numbers
from hullwatch.detect.row import row_of
from hullwatch.hindsight import Hindsight
from hullwatch.questions import Act, Actor, act_of, asked, asked_of_call
from hullwatch.sensor.wire import Class
from support.pasts import NAMES, Past

BOX = Workload(
    cgroup=7, cgroup_path="/x", state="resolved", container_id="a" * 64, name="box",
    image="acme/vllm:1", image_digest="sha256:ab", namespace="prod",
    labels={"hullwatch.kind": "agent"},
)  # fmt: skip
ACTOR = Actor(BOX, "/usr/bin/python3", "/bin/sh", "python3", 33, ("secret",))
ANYTHING = "forbid (principal, action, resource) " + (
    'when { context has kind && context["kin\\u{64}"] == "x" };'
)
"""May read any attribute, as one has escapes."""


def short(act: Act, resolvers: Collection[str] | None = None) -> list[list[str]]:
    """For each action its resources, `action Kind::id`."""
    return [
        [f"{q.action} {q.resource.kind}::{q.resource.id}" for q in one.questions]
        for one in asked(act, resolvers)
    ]


@pytest.mark.parametrize(
    ("flags", "actions"),
    [(0, ["open-read"]), (1, ["open-write"]), (2, ["open-read", "open-write"])],
)
def test_an_open_is_asked_by_its_access_mode(flags, actions):
    found = short(Act(int(Class.OPEN), "/data/x", ACTOR, flags | 0o100))
    assert found == [[f"{action} Path::/data/x"] for action in actions]


def test_secrets_and_code_are_asked_about_where_they_are_read():
    secret = Act(int(Class.OPEN), "/run/secrets/db", ACTOR)
    assert short(secret)[1:] == [["use-secret Secret::/run/secrets/db"]]
    assert short(secret._replace(flags=1)) == [["open-write Path::/run/secrets/db"]]
    assert len(short(secret._replace(directory=True))) == 1
    code = Act(int(Class.OPEN), "/m/site-packages/x.py", ACTOR, upper=True)
    (_, (load,)) = (one.questions for one in asked(code))
    assert load.action == "load-plugin"
    assert load.resource.attributes == {"plugin": "python_module", "upper": True}
    cat = ACTOR._replace(program="/bin/cat", comm="cat")
    assert len(short(code._replace(actor=cat))) == 1, "a cat reads it"
    folder = code._replace(object="/m/lib.py", directory=True)
    assert short(folder) == [["open-read Path::/m/lib.py"]]
    assert short(Act(int(Class.MMAP), "/m/odd", cat)) == [["load-plugin Path::/m/odd"]]


def test_a_connection_is_its_address_and_all_its_names_at_once():
    act = Act(int(Class.CONNECT), "[::ffff:203.0.113.5]:443", ACTOR)
    assert short(act) == [["connect Address::203.0.113.5:443", "connect Host::203.0.113.5:443"]]
    named = act._replace(names=("API.example.com.", "api.example.com", "b.example"))
    (one,) = asked(named)
    assert [q.resource.id for q in one.questions] == [
        "203.0.113.5:443", "api.example.com:443", "b.example:443",
    ]  # fmt: skip
    assert one.listed
    v6 = act._replace(object="[2001:db8::1]:80")
    assert short(v6) == [["connect Address::[2001:db8::1]:80", "connect Host::[2001:db8::1]:80"]]
    socket = act._replace(object="/run/x.sock")
    assert short(socket) == [["connect Address::/run/x.sock"]]
    (one,) = asked(act._replace(object="/var/run/x.sock"))
    assert derived("Address", one.questions[0].resource.id) == {"path": "/run/x.sock"}
    for none in ("af16", "unix", ""):
        assert short(act._replace(object=none)) == []


@pytest.mark.parametrize(
    ("to", "resolvers", "listed"),
    [
        ("127.0.0.9:80", None, False),
        ("[::1]:80", None, False),
        ("[::ffff:127.0.0.1]:80", None, False),
        ("0.0.0.0:80", None, False),
        ("10.0.0.2:53", None, False),
        ("10.0.0.2:53", {"10.0.0.2"}, False),
        ("[2001:db8::2]:53", {"2001:db8::2"}, False),
        ("10.0.0.3:53", {"10.0.0.2"}, True),
        ("10.0.0.2:5353", {"10.0.0.2"}, True),
    ],
)
def test_lists_say_nothing_about_the_machine_itself_and_its_resolvers(to, resolvers, listed):
    (one,) = asked(Act(int(Class.CONNECT), to, ACTOR), resolvers)
    assert one.listed is listed


def test_who_and_what_is_known_of_it():
    act = Act(int(Class.EXEC), "/bin/git", ACTOR, command="git pull", upper=True)
    act = act._replace(actor=ACTOR._replace(call=call(name="fetch", server="web")))
    ((question,),) = (one.questions for one in asked(act))
    assert (question.principal.kind, question.principal.id) == ("Workload", "box")
    assert question.resource.attributes == {"upper": True}
    assert question.context == {
        "labels": ("secret",), "kind": "agent", "image": "acme/vllm:1",
        "image_digest": "sha256:ab", "container": "box", "namespace": "prod",
        "program": "/usr/bin/python3", "parent": "/bin/sh", "uid": 33, "command": "git pull",
        "tool_call": "fetch", "server": "web",
    }  # fmt: skip
    bare = Actor(Workload(cgroup=9, cgroup_path="/y", state="pending"))
    ((question,),) = (one.questions for one in asked(act._replace(actor=bare, command="")))
    assert question.principal.id == "cgroup 9" and question.context == {"labels": ()}


@pytest.mark.parametrize(
    ("cls", "privilege"),
    [
        (Class.SETID, "setuid"), (Class.CAPSET, "capability"), (Class.PTRACE, "ptrace"),
        (Class.MOUNT, "mount"), (Class.BPF, "bpf"), (Class.MODULE, "module"),
    ],
)  # fmt: skip
def test_rights_are_asked_for_the_program_that_takes_them(cls, privilege):
    ((question,),) = (one.questions for one in asked(Act(int(cls), "", ACTOR)))
    assert question.resource.id == "/usr/bin/python3"
    assert question.context["privilege"] == privilege


def test_a_program_that_makes_it_another_user_is_asked_about_itself():
    run, gain = asked(Act(int(Class.EXEC), "/usr/bin/su", ACTOR, setuid=True))
    assert (run.questions[0].action, gain.questions[0].action) == ("exec", "privilege")
    assert gain.questions[0].resource.id == "/usr/bin/su"
    assert gain.questions[0].context["privilege"] == "setuid"


def test_what_has_no_object_or_is_of_no_action_is_not_asked():
    for cls in (Class.OPEN, Class.EXEC, Class.CONNECT, Class.FORK, Class.EXIT):
        assert short(Act(int(cls), "", ACTOR)) == []
    assert int(Class.OPEN) in questions.classes_of({"use-secret"})
    assert int(Class.OPEN) not in questions.classes_of({"connect", "tool-call"})
    kernel = {a for a in ACTIONS if questions.classes_of({a})}
    assert kernel == set(ACTIONS) - {"tool-call", "model-call"}


def call(**fields: Any) -> Call:
    known: dict[str, Any] = {"id": 1, "kind": "tool", "source": "tap", "name": "t", "begin": 1}
    return Call(**known | fields)


def test_calls_are_asked_for_the_container_or_else_the_agent_that_names_itself():
    ((inside,),) = (o.questions for o in asked_of_call(call(server="web", client="c"), BOX))
    assert (inside.principal.kind, inside.principal.id) == ("Workload", "box")
    assert (inside.resource.id, inside.context["tool_call"]) == ("web/t", "t")
    host = Workload(cgroup=1, cgroup_path="/", state="host")
    for where in (None, host):
        ((outside,),) = (o.questions for o in asked_of_call(call(client="desk"), where))
        assert (outside.principal.kind, outside.principal.id) == ("Agent", "desk")
    ((model,),) = (o.questions for o in asked_of_call(call(kind="model", server="openai"), BOX))
    assert (model.action, model.resource.attributes["provider"]) == ("model-call", "openai")
    assert not list(asked_of_call(call(kind="task"), BOX))


class Recording(Engine):
    asked: list[Question]

    def decide_any(self, questions: Iterable[Question], **more: Any) -> Any:
        held = list(questions)
        self.asked += held
        return super().decide_any(held, **more)


def test_the_store_asks_what_is_asked_live(tmp_path):
    """But for calls, and what failed."""
    past = Past()
    enriched = past.live()
    root = past.store(tmp_path, enriched)
    engine = Recording(Engine.of([(ANYTHING, "p")]).policies.values())
    engine.asked = []
    run = Hindsight(root, engine)
    report = run.run()
    run.close()
    wanted = []
    done = kind_numbers(enriched.batch.events)
    for at in range(len(enriched.batch.events)):
        row = row_of(enriched, at, at)
        failed = row.event.ret < 0 and done[at] == 255
        if row.workload.state == "host" or failed:
            continue
        act = act_of(row, NAMES.get(row.obj.text, ()) if row.obj else ())
        if row.name == "sni.example":  # it is what a TLS client said
            act = act._replace(names=())
        act = act._replace(actor=act.actor._replace(baseline="none"))  # nothing was learnt
        wanted += [q for one in asked(act) for q in one.questions]
    stored = [q for q in engine.asked if q.action not in ("tool-call", "model-call")]
    stored = [q for q in stored if q.resource.id != "/etc/counted"]
    plain = {text(q) for q in stored} ^ {text(q) for q in wanted if "tool_call" not in q.context}
    # Live, these events' calls are not in the tables.
    assert {msgspec.json.decode(one)["resource"]["id"] for one in plain} == {"/data/for-a-call"}
    assert report.lost == 1 and len(stored) > 25
    for one in engine.asked:
        assert one.resource.kind in APPLIES[one.action]
        for name, value in one.context.items():
            assert conform(CONTEXT[name], value) is not None, (name, value)
        for name, value in one.resource.attributes.items():
            assert conform(ENTITIES[one.resource.kind][name], value) is not None, (name, value)


def text(question: Question) -> bytes:
    return msgspec.json.encode(question, order="deterministic")


def test_what_no_question_has_is_named():
    reads = frozenset({"definition", "digest", "labels", "program", "x"})
    assert questions.never_told(("tool-call",), reads) == ("program", "definition", "digest")
    assert questions.never_told(("exec", "tool-call"), reads) == ("definition", "digest")
    assert "bytes" in questions.never_told(ACTIONS, None)
