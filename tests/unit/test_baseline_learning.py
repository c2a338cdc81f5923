"""Baselines learn from batches: once each distinct thing, bounded, and by the events' own times."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.baseline.kinds import BY_NAME
from hullwatch.detect.baseline.objects import ANY
from hullwatch.detect.baseline.values import EntryRow
from hullwatch.detect.scene import WALL
from hullwatch.sensor.wire import Class, Mark
from support.baselines import DIGEST, SECOND, Town
from support.scenes import random_scene

DAY = 86_400.0


def rows(baselines: Baselines, image: str = DIGEST) -> dict[tuple[str, str], EntryRow]:
    profile = baselines.profiles[image]
    return {(row.kind, row.name): row for row in map(baselines.row, profile.all())}


def test_each_kind_is_learnt_with_its_counts():
    town = Town()
    one, two = town.box(ident="one"), town.box(ident="two")
    for box in (one, two, two):
        town.do("exec", "/bin/a", box)
        town.do("read", f"/proc/{100 + box}/status", box)
        town.do("write", "/var/log/a.log", box)
        town.do("connect", "api.example.com=198.51.100.7:443", box)
        town.do("connect", "198.51.100.9:80", box)
        town.do("listen", "0.0.0.0:8080", box)
        town.do("dns", "api.example.com", box)
    town.wait(5)
    town.do("exec", "/bin/a", one)
    town.judge()
    found = rows(town.baselines)
    assert set(found) == {
        ("exec", "/bin/a"),
        ("read", "/proc/{n}/status"),
        ("write", "/var/log/a.log"),
        ("connect", "api.example.com:443"),
        ("connect", "198.51.100.9:80"),
        ("listen", "0.0.0.0:8080"),
        ("dns", "api.example.com"),
    }
    program = found["exec", "/bin/a"]
    assert (program.count, len(program.containers)) == (4, 2)
    assert (program.first, program.last) == (WALL, WALL + 5 * SECOND)


def test_what_failed_was_not_done():
    town = Town()
    town.do("read", "/etc/shadow", ret=-13)
    town.do("connect", "198.51.100.9:80", ret=-111)
    town.do("connect", "198.51.100.10:80", ret=-115)  # EINPROGRESS
    town.do("read", "/etc/maybe", ret=-1, marks=int(Mark.ATTEMPT))
    town.judge()
    assert set(rows(town.baselines)) == {("connect", "198.51.100.10:80"), ("read", "/etc/maybe")}


def test_renames_count_by_the_new_name():
    town = Town()
    scene = town.scene
    old, new = scene.string("/tmp/a"), scene.string("/etc/cron.d/a")
    scene.event(Class.RENAME, town.box(), obj=old, obj2=new, call="rename")
    town.judge()
    assert set(rows(town.baselines)) == {("write", "/etc/cron.d/a")}


def test_the_host_and_the_unknown_have_no_baseline():
    town = Town()
    pending = town.scene.process("x", workload=town.scene.container(state="pending"))
    host = town.scene.process("x")
    for box in (pending, host):
        town.do("exec", "/bin/a", box)
    assert town.judge() == []
    assert not town.baselines.profiles


def test_a_new_image_makes_no_flood_and_a_known_one_tells_what_is_new():
    town = Town()
    for n in range(50):
        town.do("exec", f"/bin/a{n}")
    assert town.judge() == []
    town.wait(601)
    town.do("exec", "/bin/a1")
    town.do("exec", "/bin/b")
    town.wait(1)
    town.do("exec", "/bin/b")
    assert town.judge() == [("new", "/bin/b")]
    town.do("exec", "/bin/b", town.box(ident="two"))  # another container of the same image
    assert town.judge() == []


def test_findings_say_what_they_counted():
    town = Town()
    for n in range(12):
        town.do("exec", f"/bin/a{n}", town.box(ident=str(n % 3)))
    town.wait(9 * DAY)
    town.do("exec", "/tmp/x")
    (found,) = town.engine.process(town.scene.enriched())
    assert found.why == (
        "image acme/agent:3 has executed 12 programs in 9 days over 3 containers;"
        " /tmp/x was never one of them"
    )
    town.do("connect", "198.51.100.9:80")
    (found,) = town.engine.process(town.scene.enriched())
    assert found.why == "image acme/agent:3 has never contacted anything in 9 days"


def test_drift_is_what_came_after_the_lock():
    town = Town()
    town.do("exec", "/bin/a")
    town.judge()
    town.wait(10)
    town.baselines.judge(DIGEST, town.wall, [("exec", "/opt/x/*")])
    town.wait(10)
    for name in ("/bin/a", "/bin/b", "/opt/x/c", "/bin/b"):
        town.do("exec", name)
    assert town.judge() == [("drift", "/bin/b")]
    town.do("exec", "/bin/b")
    assert town.judge() == [("drift", "/bin/b")]  # it stays drift
    town.baselines.judge(DIGEST, town.wall, ())  # locked anew: taken in
    town.wait(1)
    town.do("exec", "/bin/b")
    assert town.judge() == []


@pytest.mark.parametrize("seed", range(20))
def test_answers_are_of_the_events_time_whatever_was_learnt_since(seed):
    """The live judgement of each batch, and that of the same batches when all is known."""
    rng = random.Random(seed)
    events = []
    for _ in range(300):
        kind = rng.choice(list(BY_NAME))
        known_as = rng.choice(["", "a.example.com=", "b.example.com="])
        name = {
            "connect": f"{known_as}198.51.100.{rng.randrange(1, 99)}:443",
            "listen": f"0.0.0.0:{rng.randrange(1, 60)}",
            "dns": f"n{rng.randrange(200)}.example.com",
        }.get(kind, f"/d{rng.randrange(3)}/f{rng.randrange(90)}")
        events.append((kind, name, rng.choice(["one", "two"])))

    def play(baselines: Baselines | None = None, lock: bool = True) -> tuple[list, Town]:
        town, found = Town(baselines=baselines), []
        for at, (kind, name, ident) in enumerate(events):
            town.wait(7)
            town.do(kind, name, town.box(ident=ident))
            if at % 10 == 9:
                found += [(at, *one) for one in town.judge()]
            if lock and at == 149:
                town.baselines.judge(DIGEST, town.wall, [("exec", "/d0/*")])
        return found, town

    live, town = play()
    assert {"new", "drift"} <= {rule for _, rule, _ in live}
    town.baselines._forget_short_cuts()
    again, _ = play(town.baselines, lock=False)
    assert again == live


def test_the_short_way_gives_what_asking_each_event_gives():
    rules = """
- rule: first
  desc: d
  condition: hw.first_seen = true and evt.type != close
  output: o
  priority: NOTICE
- rule: known
  desc: d
  condition: hw.first_seen = false and proc.name startswith p
  output: o
  priority: NOTICE
- rule: neither
  desc: d
  condition: not hw.first_seen exists and evt.type = openat
  output: o
  priority: NOTICE
- rule: drift or rare
  desc: d
  condition: hw.drift = true or hw.fleet.images > 1 and hw.kind in (exec, write)
  output: o
  priority: NOTICE
- rule: not drift
  desc: d
  condition: not hw.drift = true and hw.baseline = locked
  output: o
  priority: NOTICE
"""
    for seed in range(6):
        town = Town(rules)
        engine = town.engine
        scene = random_scene(seed, events=400)
        made = scene.enriched()
        for workload in scene.workloads:
            image = workload.image or ""
            if image:
                row = EntryRow(image, "exec", "/usr/bin/cat", WALL - DAY_NS, WALL - DAY_NS, 1, ())
                engine.baselines.learn(row)
        engine.baselines.judge("acme/agent:3", WALL, ())
        novel = engine.baselines.observe(made)
        assert novel.any() and not novel.all()

        def keys(matches):
            return sorted((m.rule.name, m.row.ts, m.count, m.last) for m in matches)

        fast = keys(engine.match(made, novel))
        slow = keys(engine.match(made, None))
        plain = keys(engine._plainly(made))
        assert {m[0] for m in slow} == {m[0] for m in plain}
        assert sum(m[2] for m in fast) == sum(m[2] for m in slow) == len(plain)


DAY_NS = int(DAY * SECOND)


# --- bounds ---------------------------------------------------------------------------------


def test_a_directory_with_too_many_names_is_one_entry():
    town = Town()
    for n in range(100):
        town.wait(1)
        town.do("read", f"/lib/f{n}.so")
    town.judge()
    found = rows(town.baselines)
    fold = BY_NAME["read"].fold
    assert len(found) == fold + 1
    star = found["read", "/lib/*"]
    assert star.count == 100 - fold and star.first == WALL + (fold + 1) * SECOND
    assert town.baselines.stats()["names_folded"] == 100 - fold


def test_which_names_are_kept_does_not_depend_on_the_order_of_learning():
    made = [
        EntryRow(DIGEST, "read", f"/lib/f{n}.so", WALL + n, WALL + n, 1, (f"c{n % 5}",))
        for n in range(80)
    ]
    tables = []
    for seed in range(5):
        shuffled = list(made)
        random.Random(seed).shuffle(shuffled)
        baselines = Baselines()
        for row in shuffled:
            baselines.learn(row)
        tables.append({k: (r.first, r.last) for k, r in rows(baselines).items()})
    assert all(table == tables[0] for table in tables)
    assert ("read", "/lib/f31.so") in tables[0] and ("read", "/lib/f32.so") not in tables[0]


def test_what_does_not_fit_is_one_entry_and_counted():
    town = Town()
    most = BY_NAME["listen"].most
    for port in range(most + 50):
        town.do("listen", f"10.0.{port // 200}.{port % 200}:{1000 + port}")
    town.judge()
    held = town.baselines.profiles[DIGEST].entries[BY_NAME["listen"].number]
    assert len(held) == most + 1 and ANY in held
    assert town.baselines.stats()["names_without_room"] == 50


def test_images_make_room_for_others_but_locked_ones_stay():
    town = Town(baselines=Baselines(images=4))
    for n in range(8):
        town.wait(1)
        town.do("exec", "/bin/a", town.box(f"image/{n}"))
        town.judge()
        if n == 0:
            town.baselines.judge("image/0", town.wall, ())
    stats = town.baselines.stats()
    assert stats["images"] <= 4 and stats["images_evicted"] >= 4
    assert "image/0" in town.baselines.profiles and "image/7" in town.baselines.profiles
    assert town.baselines.table.used == sum(map(len, town.baselines.profiles.values()))
    for image in town.baselines.profiles:
        town.baselines.judge(image, town.wall, ())
    town.do("exec", "/bin/a", town.box("image/9"))
    town.judge()
    assert town.baselines.stats()["images_refused"] == 1


def test_entries_are_bounded_in_total():
    town = Town(baselines=Baselines(entries=500))
    for n in range(40):
        town.wait(1)
        for m in range(40):
            town.do("read", f"/d{m}/f", town.box(f"image/{n}"))
        town.judge()
        assert town.baselines.table.used <= 500 + 6 * len(town.baselines.profiles)
    # All of them are in use: nobody is forgotten for another's names.
    assert town.baselines.stats().get("images_evicted", 0) == 0
    assert town.baselines.stats()["names_without_room"] > 0
    town.wait(2 * 3600)
    for n in (0, 50, 51):
        town.do("read", "/d1/f", town.box(f"image/{n}"))
        town.judge()
    assert town.baselines.stats()["images_evicted"] >= 1
    assert {"image/0", "image/50", "image/51"} <= set(town.baselines.profiles)


def test_repeats_are_an_array_look_up():
    town = Town()
    for _ in range(2_000):
        town.do("read", "/etc/hosts")
    made = town.scene.enriched()
    baselines = town.baselines
    entered = []
    inner = baselines._enter
    baselines._enter = lambda *given: entered.append(given) or inner(*given)
    assert not baselines.observe(made).any()  # it is being learnt
    baselines.observe(made)
    assert len(entered) == 1
    assert rows(baselines)["read", "/etc/hosts"].count == 4_000


def test_only_what_is_new_after_the_learning_is_looked_at():
    town = Town()
    town.do("read", "/etc/hosts")
    town.judge()
    town.wait(601)
    town.do("read", "/etc/hosts")
    town.do("read", "/etc/new")
    town.do("read", "/etc/new", town.box("other/image:1"))
    town.wait(1)
    town.do("read", "/etc/new")
    made = town.scene.enriched()
    assert np.flatnonzero(town.baselines.observe(made)).tolist() == [1]
    assert not town.baselines.observe(made)[0]


def test_a_container_that_becomes_known_is_learnt_under_its_image():
    from dataclasses import replace

    town = Town()
    slot = town.scene.container(state="pending")
    box = town.scene.process("x", workload=slot)
    town.do("exec", "/bin/a", box)
    town.judge()
    assert not town.baselines.profiles
    known = town.scene.container(image="late/image:1")
    town.scene.workloads[slot] = town.scene.workloads[known]
    town.do("exec", "/bin/a", box)
    made = replace(town.scene.enriched(), released_workloads=(slot,))
    town.engine.process(made)
    assert set(rows(town.baselines, "late/image:1")) == {("exec", "/bin/a")}
