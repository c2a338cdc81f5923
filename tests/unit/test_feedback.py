"""Verdicts that go back to the kernel: asked once, never hiding what a rule may match."""

from __future__ import annotations

from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import Scene
from hullwatch.feedback import Feedback
from hullwatch.sensor.verdicts import Counted, image_scope
from hullwatch.sensor.wire import ACTION_UPPER, ACTION_WRITE, Class, Mark, Verdict

RULES = """
- rule: shadow
  desc: d
  condition: evt.type = openat and fd.name = /etc/shadow
  output: o
  priority: WARNING
- rule: written
  desc: d
  condition: evt.type = openat and fd.name = /srv/x.py and fd.is_upper_layer = true
  output: o
  priority: WARNING
- rule: tar
  desc: d
  condition: evt.type = openat and fd.name startswith /data and proc.name = tar
  output: o
  priority: WARNING
"""


class Map:
    """Stands in for the kernel's map: remembers what was put, gives back counts."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int, int], int] = {}
        self.puts = 0
        self.grown: list[Counted] = []

    def put(self, scope: int, obj: int, action: int, verdict: int) -> None:
        self.held[scope, obj, action] = verdict
        self.puts += 1

    def void_all(self) -> None:
        self.held.clear()

    def counted(self) -> list[Counted]:
        return self.grown


def stage() -> tuple[Scene, Map, Feedback]:
    rules = load_texts([(RULES, "rules.yaml")])
    assert not rules.errors
    kernel = Map()
    return Scene(), kernel, Feedback(Engine(rules), kernel)  # type: ignore[arg-type]


def test_each_object_gets_the_answer_its_rules_call_for() -> None:
    scene, kernel, feedback = stage()
    box = scene.container(name="box")
    cat, tar = (scene.process(name, workload=box) for name in ("cat", "tar"))
    paths = {name: scene.string(name) for name in ("/etc/shadow", "/data/x", "/etc/hosts")}
    for process in (cat, tar):
        for ident in paths.values():
            scene.event(Class.OPEN, process, obj=ident, call="openat")
    made = scene.enriched()
    feedback.answer(made)
    cgroup = int(made.batch.events["cgroup"][0])
    action = int(Class.OPEN)
    assert kernel.held[cgroup, paths["/etc/shadow"], action] == Verdict.REPORT
    assert kernel.held[cgroup, paths["/etc/hosts"], action] == Verdict.COUNT
    assert kernel.held[cgroup, paths["/data/x"], action] == Verdict.BYPROC
    for process, expected in ((cat, Verdict.COUNT), (tar, Verdict.REPORT)):
        image = scene.image(process)
        scope = image_scope(image.key, image.exec_id)
        assert kernel.held[scope, paths["/data/x"], action] == expected


def test_a_question_is_asked_once_however_often_the_event_comes() -> None:
    scene, _, feedback = stage()
    process, path = scene.process("cat"), scene.string("/etc/hosts")
    for _ in range(1000):
        scene.event(Class.OPEN, process, obj=path, call="openat")
    feedback.answer(scene.enriched())
    assert feedback.asked == 1


def test_writing_is_another_question_than_reading() -> None:
    scene, kernel, feedback = stage()
    process, path = scene.process("cat"), scene.string("/etc/hosts")
    scene.event(Class.OPEN, process, obj=path, call="openat", flags=1)
    feedback.answer(scene.enriched())
    assert {action for _, _, action in kernel.held} == {int(Class.OPEN) | ACTION_WRITE}


def test_what_the_image_brought_is_another_question_than_what_was_written_since() -> None:
    scene, kernel, feedback = stage()
    process, path = scene.process("python3"), scene.string("/srv/x.py")
    for mark in (Mark.LOWER, Mark.UPPER, 0):
        scene.event(Class.OPEN, process, obj=path, call="openat", marks=int(mark))
    feedback.answer(scene.enriched())
    said = {action: verdict for (_, _, action), verdict in kernel.held.items()}
    of = int(Class.OPEN)
    assert said == {of: Verdict.COUNT, of | ACTION_UPPER: Verdict.REPORT}


def test_classes_with_two_objects_are_always_sent() -> None:
    scene, kernel, feedback = stage()
    process = scene.process("mv")
    old, new = scene.string("/tmp/a"), scene.string("/tmp/b")
    scene.event(Class.RENAME, process, obj=old, obj2=new, call="rename")
    feedback.answer(scene.enriched())
    assert not kernel.held


def test_nothing_is_answered_for_a_container_that_is_not_known_yet() -> None:
    scene, kernel, feedback = stage()
    box = scene.container(name="box", state="pending")
    process, path = scene.process("cat", workload=box), scene.string("/etc/hosts")
    scene.event(Class.OPEN, process, obj=path, call="openat")
    feedback.answer(scene.enriched())
    assert not kernel.held


def test_counts_come_back_in_words() -> None:
    scene, kernel, feedback = stage()
    process, path = scene.process("cat"), scene.string("/etc/hosts")
    scene.event(Class.OPEN, process, obj=path, call="openat")
    made = scene.enriched()
    feedback.answer(made)
    cgroup = int(made.batch.events["cgroup"][0])
    kernel.grown = [Counted(cgroup, path, int(Class.OPEN), 41)]
    assert [tuple(row) for row in feedback.counts()] == [(cgroup, "open", "/etc/hosts", 41)]


def test_a_failed_exec_is_counted_by_the_path_that_was_tried() -> None:
    """Searches along PATH: no rule asks for them, so the kernel need not send the next."""
    scene, kernel, feedback = stage()
    shell, path = scene.process("sh"), scene.string("/usr/local/sbin/ls")
    scene.event(Class.EXEC_FAILED, shell, obj=path, call="execve", ret=-2)
    made = scene.enriched()
    feedback.answer(made)
    cgroup = int(made.batch.events["cgroup"][0])
    assert kernel.held == {(cgroup, path, int(Class.EXEC_FAILED)): Verdict.COUNT}
