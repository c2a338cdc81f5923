"""Names that were seen, made fewer: files to folders, hosts to domains, addresses to networks.

Of each the result is a `Choice`: what may be, in texts and patterns, each with how often it was
seen. A pattern is text in which STAR stands for anything; the kernel's names never hold it.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hullwatch.decide.schema import clean
from hullwatch.detect.baseline.objects import MAX_TEXT

__all__ = ["STAR", "Choice", "Seen", "hosts", "networks", "paths", "things", "too_wide", "unlisted"]

STAR = "\0"
MANY_FILES = 4  # of one folder that become the folder
MANY_HOSTS = 3  # names below one domain that become the domain
MANY_ADDRESSES = 4  # of one /24 (IPv6: /64) that become the network
_MOST = 400  # texts and patterns of a choice: a policy has a bound
# Folders in which each file counts by itself, unless the baseline has folded them.
_EACH = re.compile(
    r"(/|/root|/home|/home/[^/]+|/usr|/var|/var/lib|/opt|/srv)?"
    r"|((/usr|/usr/local)?/(bin|sbin|lib|lib32|lib64|libexec)|/etc|/boot|/proc|/sys|/dev)(/.*)?"
)
# Below these, strangers have their names beside one's own.
_SHARED = (
    *("amazonaws.com", "azurewebsites.net", "blogspot.com", "cloudapp.net", "cloudfront.net"),
    *("duckdns.org", "fly.dev", "github.io", "githubusercontent.com", "herokuapp.com"),
    *("netlify.app", "ngrok.app", "ngrok.io", "ngrok-free.app", "onrender.com", "pages.dev"),
    *("run.app", "trycloudflare.com", "vercel.app", "web.app", "windows.net", "workers.dev"),
)
_COUNTRY = re.compile(r"(co|com|net|org|gov|ac|edu|or|ne)\.[a-z]{2}")
_PLACES = re.compile(r"\{(?:n|hex|uuid|tmp)\}")


class Seen(NamedTuple):
    """What was seen of one text or pattern. of: how many names; times: events, 0 where nobody
    counted; example: one that it holds for."""

    of: int
    times: int
    example: str

    def __str__(self) -> str:
        times = "not counted" if not self.times else f"seen {self.times:,} times"
        times = "seen once" if self.times == 1 else times
        return f"{self.of} names, {times}" if self.of > 1 else times


class Choice(NamedTuple):
    texts: dict[str, Seen]
    patterns: dict[str, Seen]

    def parts(self) -> Iterator[Choice]:
        """The same in pieces that fit into a policy; none for nothing."""
        rows = [(0, *one) for one in self.texts.items()]
        rows += [(1, *one) for one in self.patterns.items()]
        for at in range(0, len(rows), _MOST):
            made = Choice({}, {})
            for which, text, seen in rows[at : at + _MOST]:
                made[which][text] = seen
            yield made

    @property
    def examples(self) -> list[str]:
        """One of the texts, and one of the patterns."""
        return [seen.example for held in self for seen in [*held.values()][:1]]


def things(names: Mapping[str, int]) -> Choice:
    """Each by its name."""
    return Choice({clean(one): Seen(1, names[one], clean(one)) for one in sorted(names)}, {})


def too_wide(name: str) -> bool:
    """Whether a path's pattern would hold for all paths: a number of a name, right below `/`."""
    return _wild(name) in (STAR, f"/{STAR}")


def paths(names: Mapping[str, int], folders: bool = False) -> Choice:
    """Paths as a baseline names them, but those that are too wide. folders: many files of one
    become the folder."""
    texts: dict[str, Seen] = {}
    patterns: dict[str, Seen] = {}
    for name in sorted(one for one in names if not too_wide(one)):
        text = _wild(name)
        held = patterns if STAR in text else texts
        held[text] = Seen(1, names[name], text.replace(STAR, "1"))
    if folders:
        _gather(texts, patterns)
    patterns = {one: seen for one, seen in patterns.items() if not _covered(one, patterns)}
    return Choice(
        {one: seen for one, seen in texts.items() if not _covered(one, patterns)}, patterns
    )


def _gather(texts: dict[str, Seen], patterns: dict[str, Seen]) -> None:
    by_folder: dict[str, dict[str, Seen]] = {}
    for text, seen in (texts | patterns).items():
        if not text.endswith(f"/{STAR}"):  # a folder already
            by_folder.setdefault(posixpath.dirname(text), {})[text] = seen
    for folder, held in by_folder.items():
        if len(held) >= MANY_FILES and folder[:1] == "/" and not _EACH.fullmatch(folder):
            patterns[f"{folder}/{STAR}"] = _together(held.values())


def _together(several: Iterable[Seen]) -> Seen:
    held = list(several)
    return Seen(len(held), sum(one.times for one in held), held[0].example)


def _wild(name: str) -> str:
    """A baseline's name, or a pattern that a person accepted, with STARs."""
    text = clean(name).replace(STAR, "")
    for end in ("/**", "/*"):
        if text.endswith(end):
            return _places(text.removesuffix(end)) + f"/{STAR}"
    return _places(text) + (STAR if len(name) >= MAX_TEXT else "")


def _places(text: str) -> str:
    return _PLACES.sub(STAR, text).replace("{star}", "*")


def _covered(text: str, patterns: Iterable[str]) -> bool:
    """Whether the pattern of another folder holds for all of it."""
    return any(
        text != one and one.endswith(f"/{STAR}") and text.startswith(one[:-1])
        for one in patterns
    )  # fmt: skip


def hosts(names: Mapping[str, int]) -> Choice:
    """Names of hosts, without ports; `*.DOMAIN` and `{name}` where a baseline has folded them."""
    texts: dict[str, Seen] = {}
    patterns: dict[str, Seen] = {}
    by_domain: dict[str, list[str]] = {}
    for name in sorted(names):
        text = clean(name).replace(STAR, "")
        if text == "{name}":  # many without a dot
            patterns[STAR] = Seen(1, names[name], "any")
        elif text.startswith("*."):
            patterns[STAR + text[1:]] = Seen(1, names[name], f"any{text[1:]}")
        else:
            text = text.replace("{star}", "*")
            texts[text] = Seen(1, names[name], text)
            by_domain.setdefault(text.partition(".")[2], []).append(text)
    for domain, held in by_domain.items():
        pattern = f"{STAR}.{domain}"
        if pattern in patterns:
            for one in held:
                del texts[one]
        elif len(held) >= MANY_HOSTS and not _shared(domain):
            patterns[pattern] = _together(texts.pop(one) for one in held)
    return Choice(texts, patterns)


def _shared(domain: str) -> bool:
    if "." not in domain or _COUNTRY.fullmatch(domain):
        return True
    return any(domain == one or domain.endswith(f".{one}") for one in _SHARED)


def networks(addresses: Mapping[str, int]) -> dict[str, Seen]:
    """Addresses by CIDR; those without many neighbours by themselves."""
    by_network: dict[str, list[str]] = {}
    for one in sorted(addresses):
        wide = ipaddress.ip_network(f"{one}/{64 if ':' in one else 24}", strict=False)
        by_network.setdefault(str(wide), []).append(one)
    found: dict[str, Seen] = {}
    for network, held in by_network.items():
        single = {one: Seen(1, addresses[one], one) for one in held}
        if len(held) >= MANY_ADDRESSES:
            found[network] = _together(single.values())
        else:
            found |= {str(ipaddress.ip_network(one)): seen for one, seen in single.items()}
    return found


def unlisted(host: str, port: int) -> bool:
    """What no list of permits is about (questions.py): the machine itself, and resolvers."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return port == 53
    return address.is_loopback or address.is_unspecified or port == 53
