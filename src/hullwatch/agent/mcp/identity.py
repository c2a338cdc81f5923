"""By what name a server is known here: from what starts or reaches it, never from what it says
of itself, or a server could shake off its pins by another name. Arguments may be secrets, so only
the part that says which program it is goes into the name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["of_command", "of_url"]

MAX_NAME = 200
# Launchers: words to skip, and options whose next word is theirs. The next word is the program.
_LAUNCHERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "npx": (frozenset(), frozenset({"-p", "--package", "-c", "--call"})),
    "bunx": (frozenset(), frozenset({"-p", "--package"})),
    "npm": (frozenset({"exec", "x"}), frozenset({"-p", "--package"})),
    "pnpm": (frozenset({"dlx", "exec"}), frozenset({"--package", "-C"})),
    "uvx": (frozenset(), frozenset({"--from", "--with", "-p", "--python", "--index-url"})),
    "uv": (
        frozenset({"run", "tool"}),
        frozenset({"--from", "--with", "-p", "--python", "--directory", "--project"}),
    ),
    "pipx": (frozenset({"run"}), frozenset({"--spec", "--python"})),
    "node": (frozenset(), frozenset({"-r", "--require", "--import", "--loader"})),
    "deno": (frozenset({"run"}), frozenset({"-c", "--config"})),
    "bun": (frozenset({"run", "x"}), frozenset()),
    "python": (frozenset(), frozenset({"-W", "-X"})),
}
_CONTAINERS = ("docker", "podman", "nerdctl")
# Options of `docker run` that stand alone; all others take the next word unless they have a `=`.
_ALONE = frozenset(
    "-i -t -it -ti -d --rm --init --interactive --tty --privileged --read-only --detach"
    " --no-healthcheck --sig-proxy -P --publish-all -q --quiet".split()
)


def of_command(argv: Sequence[str]) -> str:
    """`npx @scope/server`, `python -m module`, `docker image`; else the program's path."""
    program = Path(argv[0]).name
    kind = "python" if program.startswith("python") else program
    rest = list(argv[1:])
    if kind in _CONTAINERS:
        found = _image(rest)
    elif kind in _LAUNCHERS:
        found = _after(rest, *_LAUNCHERS[kind])
    else:
        found = ""
    if not found:
        return (shutil.which(argv[0]) or argv[0])[:MAX_NAME]
    if not found.startswith(("-m ", "@")) and (kind in ("python", "node", "deno", "bun", "uv")):
        path = Path(found)
        found = str(path.resolve()) if path.exists() else found
    return f"{kind} {found}"[:MAX_NAME]


def _after(words: list[str], skip: frozenset[str], taking: frozenset[str]) -> str:
    at = 0
    while at < len(words):
        word = words[at]
        if word == "-m" and at + 1 < len(words):
            return f"-m {words[at + 1]}"
        if word in taking:
            at += 1
        elif not word.startswith("-") and word not in skip:
            return word
        elif word == "-c":  # code on the command line: no name
            return ""
        at += 1
    return ""


def _image(words: list[str]) -> str:
    if "run" not in words:
        return ""
    at = words.index("run") + 1
    while at < len(words):
        word = words[at]
        if not word.startswith("-"):
            return word
        at += 1 if word in _ALONE or "=" in word else 2
    return ""


def of_url(url: str) -> str:
    """Without what may be a secret: user, password, query, fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"[:MAX_NAME]
