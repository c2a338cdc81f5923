"""Image references: ``[registry/]repository[:tag][@digest]`` taken apart."""

import re
from typing import NamedTuple

__all__ = ["ImageReference", "parse_image"]

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,128}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class ImageReference(NamedTuple):
    repository: str | None
    tag: str | None
    digest: str | None


def parse_image(reference: str) -> ImageReference:
    """Split a reference; what it does not carry is None. No default tag is made up.

    Grammar: distribution/reference (``reference := name [":" tag] ["@" digest]``). A bare
    ``sha256:…`` or 64 hex digits is an image id, which names no repository.
    """
    if _DIGEST.fullmatch(reference) or re.fullmatch(r"[0-9a-f]{64}", reference):
        return ImageReference(None, None, None)
    name, at, digest = reference.partition("@")
    found = digest if at and _DIGEST.fullmatch(digest) else None
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag and _TAG.fullmatch(tag):
        return ImageReference(head or None, tag, found)
    return ImageReference(name or None, None, found)
