"""Which package a file is of, as far as its path tells: one row a layout."""

from __future__ import annotations

from typing import NamedTuple

import re2

__all__ = ["Package", "package_of"]

_MAX_PATH = 4096


class Package(NamedTuple):
    """name: '' where the path does not tell. version: '' the same. folder: where its files are:
    what holds the package's folder, or that of the file."""

    name: str
    version: str
    folder: str


# The first that is found counts. `root` is what holds the package.
_LAYOUTS = (
    # Installed distributions and eggs.
    r"(?P<root>.*/)(?P<name>[^/]+?)-(?P<version>[0-9][^/-]*)(?:-[^/]*)?"
    r"\.(?:dist-info|egg-info|egg)(?:/.*)?",
    # What Python imports by its first folder, and the libraries that a wheel brings along.
    r"(?P<root>.*/(?:site|dist)-packages/)(?:__pycache__/)?(?P<name>[^/]+?)"
    r"(?:\.libs|\.data|\.pth|\.(?:[^/]*\.)?(?:so|pyc?)|-[0-9][^/]*\.whl)?(?:/.*)?",
    # Python's own library.
    r"(?P<root>.*/lib(?:64)?/(?P<name>python)(?P<version>[0-9]+(?:\.[0-9]+)?)t?/).*",
    # Node: pnpm has the version in its path.
    r"(?P<root>.*/node_modules/)\.pnpm/[^/]*?[^/@]@(?P<version>[0-9][^/_(]*)[^/]*/node_modules/"
    r"(?P<name>@[^/]+/[^/]+|[^/@.][^/]*)(?:/.*)?",
    r"(?P<root>.*/node_modules/)(?P<name>@[^/]+/[^/]+|[^/@.][^/]*)(?:/.*)?",
    # Extensions of editors and assistants.
    r"(?P<root>.*/\.(?:vscode|cursor)/extensions/)(?P<name>[^/]+?)"
    r"(?:-(?P<version>[0-9][^/-]*)(?:-[^/]*)?)?/.*",
    r"(?P<root>.*/\.claude/plugins/)cache/[^/]+/(?P<name>[^/]+)/(?P<version>[0-9][^/]*)/.*",
    r"(?P<root>.*/\.claude/plugins/)(?:marketplaces/[^/]+/)?(?:plugins/)?(?P<name>[^/]+)/.*",
    r"(?P<root>.*/(?:skills|\.gemini/extensions)/)(?P<name>[^/]+)/.*",
    r"(?P<root>.*/kernels/)(?P<name>[^/]+)/kernel\.json",
    # Hugging Face's cache, Java's archives, wheels.
    r"(?P<root>.*/)models--(?P<model>[^/]+)/(?:snapshots/(?P<version>[0-9a-f]{12})[0-9a-f]*/)?.*",
    r"(?P<root>.*/)(?P<name>[^/]+?)-(?P<version>[0-9][^/-]*)(?:-[^/]*)?\.(?:jar|war|whl)",
)


def _compiled(pattern: str) -> re2._Regexp[bytes]:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    return re2.compile(pattern.encode(), options)


_COMPILED = tuple(map(_compiled, _LAYOUTS))


def package_of(path: str) -> Package:
    path = path[-_MAX_PATH:]
    data = path.encode("utf-8", "surrogatepass")
    for layout in _COMPILED:
        found = layout.fullmatch(data)
        if found is not None:
            parts = {_text(name): _text(part) for name, part in found.groupdict().items()}
            name = parts.get("name") or parts.get("model", "").replace("--", "/")
            return Package(name, parts.get("version", ""), parts["root"].rstrip("/") or "/")
    folder = path.rpartition("/")[0].removesuffix("/__pycache__")
    return Package("", "", folder or "/")


def _text(part: bytes | None) -> str:
    # A pattern of bytes may end within a letter only where the path itself did.
    return (part or b"").decode("utf-8", "surrogatepass")
