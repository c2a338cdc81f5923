"""Content of calls, for workloads that somebody chose: redacted before anything holds or writes it.

The tap and the socket for calls hand in what was said; what comes out again is redacted, short
enough, and known to be of a chosen workload. Everything has a bound; what is left out is counted.
"""

from __future__ import annotations

import fnmatch
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from hullwatch.agent.secrets.key import Key
from hullwatch.agent.secrets.redaction import redact
from hullwatch.agent.wire.said import Room, Said
from hullwatch.context.workload import Workload

__all__ = ["LIMITS", "Content", "Item", "chosen", "clean", "pattern_problem"]

LIMITS = (256, 64 << 10)  # bytes of an item that may be asked for
HOST = "host"  # the pattern of what runs in no container, and what stands for its id
_MAX_PATTERN = 256
_MAX_QUEUE = 8 << 20  # bytes that wait to be written
_PATIENCE = 10.0  # s that a container may take to be known
_SHARE, _BURST = 0.05, 1.0  # s of the processor a second, and at once, to look for secrets


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """time: unix ns. call: its id. name: OTel's attribute. text: without secrets. size: bytes that
    were heard; cut: text is not all of it. container: full id, or `host`."""

    time: int
    call: int
    name: str
    text: str
    size: int
    cut: bool
    container: str = ""
    workload: str = ""
    image: str = ""


def pattern_problem(pattern: str) -> str:
    """Why it cannot choose workloads; '' if it can."""
    if not pattern or len(pattern) > _MAX_PATTERN or not pattern.isprintable() or " " in pattern:
        return f"a pattern has 1 to {_MAX_PATTERN} printable characters and no spaces"
    if not pattern.strip("*?"):
        return "would be every container: name those whose content is to be kept"
    return ""


def chosen(patterns: Iterable[str], workload: Workload) -> bool | None:
    """By container name, image, pod or NAMESPACE/POD, in which `*` and `?` stand for others; `host`
    is what runs in no container. None: not known yet."""
    if workload.state == "pending":
        return None
    if workload.state == "host":
        return HOST in patterns
    pod = workload.pod
    names = (
        workload.name,
        workload.image,
        workload.image_repository,
        pod,
        f"{workload.namespace}/{pod}" if workload.namespace and pod else None,
    )
    return workload.is_container and any(
        fnmatch.fnmatchcase(name, pattern) for name in names if name for pattern in patterns
    )


def clean(
    data: bytes | bytearray,
    key: Key,
    limit: int,
    *,
    whole: bool = True,
    known: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Text without secrets of at most `limit` bytes: of a longer one its begin and its end. Is
    something left out? whole, known: as `redact` has them."""
    text = redact(data.decode("utf-8", "replace"), key, whole=whole, known=known)
    out = text.encode("utf-8", "replace")
    if len(out) <= limit:
        return out.decode(), not whole
    mark = f"[... {len(out) - limit} bytes and more ...]"
    room = max(0, limit - len(mark))
    first, last = out[: room - room // 2], out[len(out) - room // 2 :]
    return first.decode(errors="ignore") + mark + last.decode(errors="ignore"), True


class Content:
    """patterns: of workloads (`chosen`). limit: bytes of an item. lookup: whose a cgroup is. known:
    values to take out wherever they are, canaries for one, with their kind.

    put: from any thread. take: what may be written now. dropped: items by why they are not kept.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        limit: int,
        key: Key,
        lookup: Callable[[int], Workload],
        known: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patterns, self.limit = tuple(patterns), limit
        self._key, self._lookup, self._clock = key, lookup, clock
        # As JSON writes it, too.
        self._known = {
            form: kind
            for value, kind in (known or {}).items()
            for form in (value, json.dumps(value)[1:-1])
        }
        self._room = Room()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, int, Item]] = deque()  # since when, cgroup
        self._held = 0
        self._left, self._at = _BURST, clock()
        self.kept = 0
        self.dropped: Counter[str] = Counter()

    def room(self, cgroup: int) -> Room | None:
        """For what is said there; None: it is nobody's that was chosen."""
        return None if self.wants(cgroup) is False else self._room

    def wants(self, cgroup: int) -> bool | None:
        return chosen(self.patterns, self._lookup(cgroup))

    def hear(self, cgroup: int, call: int, name: str, said: Said, moment: int) -> None:
        """moment: unix ns."""
        self.put(cgroup, call, name, said.data, moment, whole=said.whole)

    def put(
        self,
        cgroup: int,
        call: int,
        name: str,
        data: bytes | bytearray,
        moment: int,
        *,
        whole: bool = True,
    ) -> None:
        if (not data and whole) or self.wants(cgroup) is False:
            return
        if not self._allowed():
            self.drop("too much at once")
            return
        begun = time.thread_time()
        text, cut = clean(data, self._key, self.limit, whole=whole, known=self._known)
        with self._lock:
            self._left -= time.thread_time() - begun
        if not text:
            self.drop("incomplete")
            return
        item = Item(time=moment, call=call, name=name, text=text, size=len(data), cut=cut)
        with self._lock:
            if self._held + len(text) > _MAX_QUEUE:
                self.dropped["not written in time"] += 1
                return
            self._held += len(text)
            self._waiting.append((self._clock(), cgroup, item))

    def missed(self, cgroup: int) -> None:
        """There was something to keep, and nobody heard it."""
        if self.wants(cgroup):
            self.drop("not heard")

    def drop(self, why: str, count: int = 1) -> None:
        with self._lock:
            self.dropped[why] += count

    def take(self) -> list[Item]:
        """What is of a chosen workload for certain; what nobody knows yet waits on."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            self._held = 0
        ready: list[Item] = []
        now = self._clock()
        for since, cgroup, item in waiting:
            workload = self._lookup(cgroup)
            wanted = chosen(self.patterns, workload)
            if wanted:
                ready.append(_of(item, workload))
            elif wanted is None and now - since < _PATIENCE:
                with self._lock:
                    self._held += len(item.text)
                    self._waiting.append((since, cgroup, item))
            elif wanted is None:
                self.drop("container not known")
        self.kept += len(ready)
        return ready

    def _allowed(self) -> bool:
        """What is hard to look through must not hold up the agent."""
        with self._lock:
            now = self._clock()
            self._left = min(_BURST, self._left + (now - self._at) * _SHARE)
            self._at = now
            return self._left > 0


def _of(item: Item, workload: Workload) -> Item:
    return msgspec.structs.replace(
        item,
        container=workload.container_id or HOST,
        workload=workload.name or workload.pod or HOST,
        image=workload.image or "",
    )
