"""What a set of policies comes to: the strongest effect, failures, approvals, permits' lists."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import date, datetime
from pathlib import Path

import cedarpy
import msgspec
import pytest

import hullwatch
from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import PolicyError
from hullwatch.decide.question import Decision, Effect, Entity, Question, Value

SECRET = '@id("secret") forbid(principal, action, resource) when { context.labels.contains("s") };'
ASK = '@id("ask") @effect("challenge") forbid(principal, action == Action::"tool-call", resource);'
LISTED = """
@id("listed") permit(principal == Agent::"a", action == Action::"tool-call", resource is Tool)
when { resource.name == "read" };
"""
SUNDAY = datetime(2026, 11, 29, 23, 30)


def engine(*policies: str) -> Engine:
    return Engine.of([("\n".join(policies), "set.cedar")])


def ask(
    action: str = "tool-call",
    resource: str = "files/read",
    *,
    who: str = "a",
    kind: str = "Tool",
    labels: tuple[str, ...] | None = (),
    **context: Value,
) -> Question:
    if labels is not None:
        context["labels"] = labels
    return Question(
        principal=Entity("Agent", who),
        action=action,
        resource=Entity(kind, resource),
        context=context,
    )


def effect(made: Engine, question: Question, *, approved: bool = False) -> Effect:
    return made.decide(question, approved=approved).effect


def test_nothing_is_forbidden_by_an_empty_set():
    decided = Engine([]).decide(ask())
    assert decided.effect is decided.wanted is Effect.ALLOW
    assert not decided.policies and not decided.failed


def test_block_beats_challenge_beats_allow():
    allow = '@id("any") permit(principal, action, resource);'
    assert effect(engine(allow), ask()) is Effect.ALLOW
    assert effect(engine(allow, ASK), ask()) is Effect.CHALLENGE
    decided = engine(allow, ASK, SECRET).decide(ask(labels=("s",)))
    assert decided.effect is Effect.BLOCK
    assert decided.policies == ("secret",)


def test_an_approval_satisfies_a_challenge_and_lifts_no_block():
    made = engine(ASK, SECRET)
    assert effect(made, ask()) is Effect.CHALLENGE
    assert effect(made, ask(), approved=True) is Effect.ALLOW
    assert made.decide(ask(), approved=True).policies == ("ask",)
    assert effect(made, ask(labels=("s",)), approved=True) is Effect.BLOCK
    # Nor what no permit names.
    assert effect(engine(ASK, LISTED), ask(resource="files/rm"), approved=True) is Effect.BLOCK


def test_permits_list_what_those_whom_they_name_may_do():
    made = engine(LISTED)
    assert made.decide(ask()).policies == ("listed",)
    refused = made.decide(ask(resource="files/rm"))
    assert refused.effect is Effect.BLOCK and not refused.policies
    assert "permit" in refused.reason
    # Neither another agent nor another action is spoken of.
    assert effect(made, ask(resource="files/rm", who="b")) is Effect.ALLOW
    assert effect(made, ask("exec", "/bin/sh", kind="Binary")) is Effect.ALLOW


def test_cedar_alone_would_allow_what_a_broken_forbid_forbids():
    made = engine(SECRET)
    unlabelled = ask(labels=None)
    alone = cedarpy.is_authorized(
        {
            "principal": 'Agent::"a"',
            "action": 'Action::"tool-call"',
            "resource": 'Tool::"files/read"',
            "context": {},
        },
        "permit(principal, action, resource);" + SECRET,
        [],
    )
    assert alone.allowed and alone.diagnostics.errors
    decided = made.decide(unlabelled)
    assert decided.effect is Effect.BLOCK
    assert decided.failed == decided.policies == ("secret",)
    assert "could not be evaluated" in decided.reason


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (f'@fail("open") {SECRET}', Effect.ALLOW),
        (f'@fail("closed") {SECRET}', Effect.BLOCK),
        (f'@effect("challenge") {SECRET}', Effect.CHALLENGE),
        (f'@fail("open") @effect("challenge") {SECRET}', Effect.ALLOW),
        (SECRET.replace("forbid", "permit"), Effect.BLOCK),
        ('@fail("open") ' + SECRET.replace("forbid", "permit"), Effect.ALLOW),
    ],
)
def test_what_cannot_be_evaluated_takes_its_fail(policy: str, expected: Effect):
    decided = engine(policy).decide(ask(labels=None))
    assert decided.effect is expected
    assert decided.failed == ("secret",)


def test_a_value_of_the_wrong_type_is_a_missing_one():
    for labels in ("s", 3, True, ("s", 3)):
        assert engine(SECRET).decide(ask(labels=labels)).failed == ("secret",)


def test_what_is_observed_is_told_and_not_done():
    decided = engine(f'@mode("observe") {SECRET}').decide(ask(labels=("s",)))
    assert (decided.effect, decided.wanted) == (Effect.ALLOW, Effect.BLOCK)
    assert decided.policies == ("secret",) and decided.reason.startswith("only observed")
    both = engine(f'@mode("observe") {SECRET}', ASK).decide(ask(labels=("s",)))
    assert (both.effect, both.wanted) == (Effect.CHALLENGE, Effect.BLOCK)
    assert both.policies == ("secret", "ask")
    listed = engine(f'@mode("observe") {LISTED}').decide(ask(resource="files/rm"))
    assert (listed.effect, listed.wanted) == (Effect.ALLOW, Effect.BLOCK)


def test_what_cannot_be_asked_fails_every_policy():
    made = engine(SECRET, '@fail("open") @id("open") forbid(principal, action, resource);')
    strange = msgspec.structs.replace(ask(), principal=Entity("Tool", "a"))
    for question in (ask("exce"), ask(kind="Tol"), ask(kind="Binary"), strange):
        decided = made.decide(question)
        assert decided.effect is Effect.BLOCK
        assert decided.failed == ("secret", "open")
        assert decided.policies == ("secret",)


@pytest.mark.parametrize("fault", [ValueError, MemoryError, BaseException])
def test_a_fault_of_cedars_fails_every_policy(monkeypatch: pytest.MonkeyPatch, fault):
    def broken(*_: object) -> None:
        raise fault

    made = engine('@id("never") forbid (principal, action, resource) when { false };')
    monkeypatch.setattr(cedarpy, "is_authorized", broken)
    assert made.decide(ask()).failed == ("never",)
    assert made.decide(ask()).effect is Effect.BLOCK
    assert made.answer(ask()).failed == {"never"}
    # What happened once is not remembered.
    monkeypatch.undo()
    assert made.decide(ask()).effect is Effect.ALLOW


def test_attributes_follow_from_ids():
    made = engine(
        """
        @id("inside") forbid(principal, action == Action::"connect", resource is Address)
        when { resource has ip && resource.ip.isInRange(ip("10.0.0.0/8")) };
        @id("name") forbid(principal, action == Action::"connect", resource is Host)
        when { resource.name like "*.example.com" && resource has port && resource.port == 443 };
        @id("sh") forbid(principal, action == Action::"exec", resource)
        when { resource.name == "sh" };
        @id("server") forbid(principal, action == Action::"tool-call", resource is Tool)
        when { resource has server && resource.server == "github" && resource.name == "a/b" };
        @id("model") forbid(principal, action == Action::"model-call", resource)
        when { resource has provider && resource.provider == "openai" };
        @id("domain") forbid(principal, action == Action::"use-secret", resource)
        when { principal has trust_domain && principal.trust_domain != "acme.org" };
        @id("vllm") forbid(principal, action == Action::"listen", resource)
        when { context has kind && context.kind == "model-server" };
        """
    )
    for action, kind, ident, expected in (
        ("connect", "Address", "10.1.2.3:80", "inside"),
        ("connect", "Address", "[::ffff:10.1.2.3]:80", "inside"),
        ("connect", "Address", "::ffff:10.1.2.3", "inside"),
        ("connect", "Address", "[fe80::1%eth0]:80", ""),
        ("connect", "Address", "/run/docker.sock", ""),
        ("connect", "Address", "no address", ""),
        ("connect", "Host", "API.Example.com.:443", "name"),
        ("connect", "Host", "api.example.com:80", ""),
        ("exec", "Binary", "/usr/bin/sh", "sh"),
        ("tool-call", "Tool", "github/a/b", "server"),
        ("tool-call", "Tool", "a", ""),
        ("model-call", "Model", "openai/gpt-5", "model"),
    ):
        decided = made.decide(ask(action, ident, kind=kind))
        assert ("".join(decided.policies), decided.failed) == (expected, ()), ident
    listens = ask("listen", "0.0.0.0:80", kind="Address", image="ghcr.io/acme/vllm-openai:1@x")
    assert made.decide(listens).policies == ("vllm",)
    identity = Question(
        principal=Entity("Identity", "spiffe://evil.org/x"),
        action="use-secret",
        resource=Entity("Secret", "/run/token"),
    )
    assert made.decide(identity).policies == ("domain",)


def test_a_name_with_escapes_may_be_of_any_attribute():
    held = 'permit (principal, action == Action::"exec", resource is Binary) when {{ {} }};'
    listed = engine(held.format('["/x", "x\\ny"].contains(resource.path)'))
    odd = engine(held.format('resource["pat\\u{68}"] == "/x"'))
    assert listed.policies["set-1"].reads is not None and odd.policies["set-1"].reads is None
    for made in (listed, odd):
        decided = made.decide(ask("exec", "/x", kind="Binary"))
        assert (decided.effect, decided.failed) == (Effect.ALLOW, ()), decided


def test_hours_and_days_are_filled_in():
    made = engine(
        '@id("night") forbid(principal, action, resource) when { context.hour >= 22 };',
        '@id("sunday") forbid(principal, action, resource) when { context.weekday == "sun" };',
    )
    assert made.decide(ask(), now=SUNDAY).policies == ("night", "sunday")
    assert made.decide(ask(), now=SUNDAY.replace(hour=9)).policies == ("sunday",)
    assert made.decide(ask(hour=3, weekday="mon"), now=SUNDAY).policies == ()


def test_ids_of_any_text_are_asked():
    made = engine(
        '@id("x") forbid(principal, action, resource is Path) when { resource.path like "*\\\\*" };'
    )
    for ident in ("", "\0", "\ud800", '"', "a\nb", "/etc/\udcff", "x" * 100_000, "\U0001f600"):
        decided = made.decide(ask("open-read", ident, kind="Path", who=ident))
        assert not decided.failed, ident
        # Bytes that are no UTF-8 reach a policy as \udcff.
        broken = any("\ud800" <= char <= "\udfff" for char in ident)
        assert decided.effect is (Effect.BLOCK if broken else Effect.ALLOW), ascii(ident[:9])


def test_equal_questions_are_asked_once():
    made = engine(SECRET)
    first = made.decide(ask(arguments="1", labels=("a", "b")))
    # What no policy reads makes no other question, nor does the order of a set.
    again = made.decide(ask(arguments="2", labels=("b", "a")))
    assert (first.effect, first.policies) == (again.effect, again.policies)
    assert made.cache == (1, 1, 1)
    assert made.decide(ask(labels=("s",))).effect is Effect.BLOCK
    assert made.decide(ask(labels=("s",)), approved=True).effect is Effect.BLOCK
    assert made.cache == (1, 3, 3)


def test_true_is_not_one_in_the_cache():
    made = engine(
        '@id("x") forbid(principal, action, resource) when { context has uid && context.uid == 1 };'
    )
    assert effect(made, ask(uid=True)) is Effect.ALLOW
    assert effect(made, ask(uid=1)) is Effect.BLOCK


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hullwatch.decide.engine.MAX_CACHED", 10)
    made = engine(SECRET)
    for n in range(30):
        made.decide(ask(resource=f"s/{n}"))
    made.decide(ask(resource="s/" + "x" * 5000))
    assert made.cache.size == 10


def test_many_threads_may_ask():
    made = engine(SECRET, ASK)
    wrong: list[Decision] = []

    def work(seed: int) -> None:
        for n in range(200):
            labels = ("s",) if (n + seed) % 2 else ()
            decided = made.decide(ask(resource=f"s/{n % 50}", labels=labels))
            if (decided.effect is Effect.BLOCK) != bool(labels):
                wrong.append(decided)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert made.cache.hits + made.cache.misses == 800


def test_the_version_is_of_what_the_set_says():
    made = engine(SECRET, ASK)
    assert made.version == Engine.of([(ASK, "b.cedar"), (SECRET, "a.cedar")]).version
    assert made.version != engine(SECRET).version
    assert made.decide(ask()).version == made.version


def test_who_decides_does_not_pay_for_detection():
    code = "import sys, hullwatch.decide.engine; sys.exit(bool({'numpy', 're2'} & {*sys.modules}))"
    source = Path(hullwatch.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=source).returncode == 0


def test_overdue_reviews_are_warnings():
    made = engine(f'@review("2026-11-01") {SECRET}')
    assert [one.policy for one in made.overdue(date(2026, 11, 2))] == ["secret"]
    assert not made.overdue(date(2026, 11, 1))


def test_all_that_is_wrong_is_told(tmp_path):
    (tmp_path / "a.cedar").write_text("permit(principal, action, resource)")
    (tmp_path / "b.cedar").write_text('@id("x") @id("y") permit(principal, action, resource);')
    (tmp_path / "c.cedar").write_bytes(b"\n\xff")
    with pytest.raises(PolicyError) as told:
        Engine.load([tmp_path, tmp_path / "d.cedar"])
    assert {str(one.place.path).rpartition("/")[2] for one in told.value.problems} == {
        *("a.cedar", "b.cedar", "c.cedar", "d.cedar")
    }


def test_a_part_of_a_set_is_asked_as_that_and_is_of_its_version():
    whole = Engine.of(
        [
            ('@id("any") forbid (principal, action, resource);', "a.cedar"),
            ('@id("one") permit (principal, action == Action::"exec", resource);', "b.cedar"),
        ]
    )
    part = whole.narrowed({"any": ("open-read", "nothing-it-has"), "gone": ("exec",)})
    assert part.version == whole.version and set(part.policies) == {"any"}
    asked = Question(
        principal=Entity("Workload", "box"), action="open-read", resource=Entity("Path", "/x")
    )
    assert part.decide(asked).effect is Effect.BLOCK
    run = msgspec.structs.replace(asked, action="exec", resource=Entity("Binary", "/x"))
    assert part.decide(run).policies == () and not part.concerns("exec", asked.principal, {})
    assert whole.decide(run).policies == ("any",)
