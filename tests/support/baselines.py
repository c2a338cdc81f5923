"""Scenes in which containers of images do things, and engines that learn from them."""

from __future__ import annotations

from typing import Any

from hullwatch.detect.baseline.baselines import Baselines
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import START, WALL, Scene
from hullwatch.sensor.wire import Class, StrKind

SECOND = 10**9
TCP = 2 << 16 | 1 << 8 | 6
DIGEST = "sha256:" + "ab" * 32
RULES = """
- rule: new
  desc: d
  condition: hw.kind exists and hw.first_seen = true
  output: "%hw.object"
  priority: NOTICE
- rule: drift
  desc: d
  condition: hw.kind exists and hw.drift = true
  output: "%hw.object"
  priority: WARNING
"""


class Town:
    """Containers of images, each with a process; what they do is stamped with a time of ours."""

    def __init__(self, rules: str = RULES, baselines: Baselines | None = None) -> None:
        loaded = load_texts([(rules, "rules.yaml")])
        assert not loaded.errors, loaded.errors
        self.scene = Scene()
        self.engine = Engine(loaded, baselines=baselines)
        self.baselines = self.engine.baselines
        self.boxes: dict[str, int] = {}
        self.now = 0.0  # seconds since START

    def box(self, image: str = DIGEST, ident: str = "one") -> int:
        """The process slot of a container, by its image's digest (or name) and a name."""
        key = f"{image} {ident}"
        if key not in self.boxes:
            fields: dict[str, Any] = {"image": "acme/agent:3", "image_digest": image}
            if not image.startswith("sha256:"):
                fields = {"image": image}
            fields["container_id"] = f"{len(self.boxes):x}".rjust(12, "c") + "0" * 52
            slot = self.scene.container(name=ident, **fields)
            self.boxes[key] = self.scene.process("python3", workload=slot)
        return self.boxes[key]

    def do(self, kind: str, name: str, box: int | None = None, **more: Any) -> None:
        """An event of a kind at self.now. connect: HOST:PORT, or NAME=HOST:PORT."""
        scene, image = self.scene, self.box() if box is None else box
        columns: dict[str, Any] = {"ret": 3}
        cls: Class
        if kind in ("read", "write"):
            cls, columns["flags"] = Class.OPEN, int(kind == "write")
            obj = scene.string(name)
        elif kind in ("connect", "listen"):
            domain, _, end = name.rpartition("=")
            cls = Class.CONNECT if kind == "connect" else Class.LISTEN
            columns |= {"flags": TCP, "name": domain, "ret": 0}
            obj = scene.address(end)
        elif kind == "dns":
            cls, obj = Class.DNS, scene.string(name, int(StrKind.DNS))
        else:
            cls, obj = Class.EXEC, scene.string(name)
            columns["ret"] = 0
        made = {**columns, "ts": START + int(self.now * SECOND), **more}
        scene.event(cls, image, obj=obj, **made)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def judge(self) -> list[tuple[str, str]]:
        """(rule, object) of what is found in all that was done since the last time."""
        return [(one.rule, one.output) for one in self.engine.process(self.scene.enriched())]

    @property
    def wall(self) -> int:
        return WALL + int(self.now * SECOND)
