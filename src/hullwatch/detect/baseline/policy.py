"""A profile as a rule file of our own language: what is not in it is a finding.

The file decides what `hw.drift` decides of the locked profile, on any machine, without it: lists of
what was seen, and one rule a kind. Test cases come with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import yaml

from hullwatch.detect.baseline.kinds import KINDS, Kind
from hullwatch.detect.baseline.objects import ANY, group_of, within
from hullwatch.detect.baseline.values import EntryRow, ProfileRow
from hullwatch.detect.language.strings import quote

__all__ = ["as_cases", "as_rules", "in_profile", "outside", "unbounded"]

_PRIORITY = {"exec": "WARNING", "connect": "WARNING", "listen": "WARNING"}
_TAGS = {
    "exec": ["ASI05", "T1059"],
    "read": ["ASI03", "T1005"],
    "write": ["ASI04", "T1565.001"],
    "connect": ["ASI02", "LLM02", "T1071"],
    "listen": ["ASI05", "T1571"],
    "dns": ["ASI02", "T1071.004"],
}
_NEVER = {
    "exec": {"type": "execve", "path": "/never/seen/before"},
    "read": {"type": "openat", "path": "/never/seen/before", "access": "read"},
    "write": {"type": "openat", "path": "/never/seen/before", "access": "write"},
    "connect": {"type": "connect", "to": "192.0.2.1:9", "domain": "never.seen.example"},
    "listen": {"type": "listen", "to": "192.0.2.1:9"},
    "dns": {"type": "dns", "dns": "never.seen.example"},
}
_KEY = {"exec": "path", "read": "path", "write": "path", "dns": "dns"}


def in_profile(profile: ProfileRow, entries: Iterable[EntryRow]) -> dict[str, list[str]]:
    """What the profile allows, by kind: names seen until the lock (or now), patterns accepted."""
    found: dict[str, dict[str, None]] = {kind.name: {} for kind in KINDS}
    for entry in entries:
        if profile.locked is None or entry.first <= profile.locked:
            found[entry.kind].setdefault(entry.name)
    for kind, pattern in profile.accepted:
        found[kind].setdefault(pattern)
    return {kind: sorted(names) for kind, names in found.items()}


def outside(
    profile: ProfileRow, entries: Iterable[EntryRow], done: Iterable[EntryRow]
) -> list[EntryRow]:
    """Of what was done, what the profile does not allow. done: its own entries, or another's."""
    allowed = {kind: set(names) for kind, names in in_profile(profile, entries).items()}
    return [
        row
        for row in done
        if not allowed[row.kind] & {row.name, group_of(row.kind, row.name), ANY}
        and not any(
            within(one, row.kind, row.name) for one in allowed[row.kind] if one.endswith("/**")
        )
    ]


def unbounded(allowed: dict[str, list[str]]) -> list[str]:
    """Kinds of which more was seen than a profile holds: it says nothing about them."""
    return [kind for kind, names in allowed.items() if ANY in names]


def as_rules(profile: ProfileRow, entries: Iterable[EntryRow]) -> str:
    """The file's text."""
    allowed = in_profile(profile, entries)
    items: list[dict[str, Any]] = []
    for kind in KINDS:
        names = allowed[kind.name]
        if ANY in names:
            continue
        below = [name for name in names if name.endswith("/**")]
        plain = [name for name in names if name not in below]
        listed = f"{_slug(profile)}_{kind.name}"
        if plain:
            items.append({"list": listed, "items": [quote(name, always=True) for name in plain]})
        items.append(_rule(profile, kind, listed if plain else "", below))
    about = [
        f"# What {_plain(profile.name or profile.image)} normally does, as `hullwatch baseline"
        " export` wrote it.",
        f"# Image: {_plain(profile.image)}",
        *(
            f"# {kind}: more was seen than a profile holds, so no rule."
            for kind in unbounded(allowed)
        ),
    ]
    return "\n".join(about) + "\n\n" + _dump(items)


def _rule(profile: ProfileRow, kind: Kind, listed: str, below: list[str]) -> dict[str, Any]:
    condition = f"hw.kind = {kind.name} and {_of_image(profile.image)}"
    if listed:
        # A name stands for itself, or for a group where there were too many.
        condition += f" and not hw.object in ({listed}) and not hw.object.group in ({listed})"
    for pattern in below:
        condition += f" and not hw.object startswith {quote(pattern[:-2], always=True)}"
    return {
        "rule": _title(profile, kind),
        "desc": f"Of what this image has {kind.verb}, this was never a part.",
        "condition": condition,
        "output": (
            f"Outside the profile of the image | {kind.name}=%hw.object process=%proc.name"
            " command=%proc.cmdline parent=%proc.pname container=%container.name"
            " image=%container.image"
        ),
        "priority": _PRIORITY.get(kind.name, "NOTICE"),
        "tags": ["hullwatch", "container", "baseline", *_TAGS[kind.name]],
    }


def _of_image(image: str) -> str:
    """The condition that says what `image_key` says."""
    value = quote(image, always=True)
    if re.match(r"sha\d+:", image):
        return f"hw.container.state = resolved and container.image.digest = {value}"
    return (
        "hw.container.state = resolved and not container.image.digest exists"
        f" and (container.image = {value}"
        f" or not container.image exists and container.name = {value})"
    )


def _title(profile: ProfileRow, kind: Kind) -> str:
    image = f"{_plain(profile.name or profile.image)} {_short(profile)}"
    return f"Outside the profile of {image}: {kind.name}"


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _short(profile: ProfileRow) -> str:
    return hashlib.blake2b(profile.image.encode(), digest_size=4).hexdigest()


def _slug(profile: ProfileRow) -> str:
    name = (profile.name or profile.image).rpartition("/")[2].partition("@")[0]
    return re.sub(r"[^a-z0-9]+", "_", f"profile {name} {_short(profile)}".lower())


def as_cases(profile: ProfileRow, entries: Iterable[EntryRow]) -> str:
    """The text of the file of cases: for each rule something outside, and something inside."""
    allowed = in_profile(profile, entries)
    box: dict[str, Any] = {"image": profile.name or profile.image}
    if re.match(r"sha\d+:", profile.image):
        box["image_digest"] = profile.image
    elif profile.name != profile.image:
        box = {"name": profile.image}
    groups = []
    for kind in KINDS:
        if ANY in allowed[kind.name]:
            continue
        never = _NEVER[kind.name]
        inside = next((one for one in allowed[kind.name] if not set(one) & set("{*")), None)
        known = {"container": box, "event": _inside(kind, inside)}
        if inside is None:
            known = {"container": {"image": "another:1"}, "event": never}
        groups.append(
            {
                "rule": _title(profile, kind),
                "cases": [
                    {"name": "outside", "expect": "match", "container": box, "event": never},
                    {"name": "known", "expect": "no match", **known},
                ],
            }
        )
    return _dump(groups)


def _inside(kind: Kind, name: str | None) -> dict[str, Any]:
    event = dict(_NEVER[kind.name])
    if name is None:
        return event
    if kind.name in _KEY:
        return event | {_KEY[kind.name]: name}
    event.pop("domain", None)
    if name.startswith("unix:"):
        return event | {"to": name.removeprefix("unix:")}
    host, _, port = name.rpartition(":")
    if host.startswith("[") or host.replace(".", "").isdecimal():
        return event | {"to": name}
    return event | {"to": f"192.0.2.1:{port}", "domain": host}


def _dump(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, width=100, allow_unicode=False)
    return text
