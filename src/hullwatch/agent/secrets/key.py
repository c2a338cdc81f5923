"""The installation's own key, and the hashes that stand for secrets in what is stored.

Who has a hash and not the key learns nothing from it, not even by trying; the same secret has the
same hash everywhere in one installation, and another one in the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

from hullwatch.agent.secrets.escapes import unescape

__all__ = ["Key", "KeyUnusable"]

SIZE = 32  # bytes
_HASH = 8  # bytes
_PURPOSE = b"hullwatch secret"  # so that a key used for something else gives other hashes
_BLANKS = b" \t\r\n\f\v"


class KeyUnusable(Exception):
    """The file cannot serve as a key: where, why, and how to mend it."""


class Key:
    """32 bytes, which it never shows."""

    __slots__ = ("_bytes",)

    def __init__(self, key: bytes) -> None:
        if len(key) != SIZE:
            raise ValueError(f"a key has {SIZE} bytes")
        self._bytes = key

    def __repr__(self) -> str:
        return "Key(...)"

    @classmethod
    def load(cls, path: Path) -> Key:
        """The key of a file, which is made with mode 0600 where there is none. KeyUnusable: it is
        of another size or owner, others may read it, or it cannot be read or made."""
        try:
            if not os.path.lexists(path):
                _make(path)
            return cls(_read(path))
        except OSError as error:
            raise KeyUnusable(f"{path}: {error.strerror}; the key of secrets' hashes") from None

    def hash(self, value: str | bytes) -> str:
        """16 hexadecimal digits. One secret has one hash, whether it is escaped as in JSON or
        wrapped into lines or not."""
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        plain = unescape(raw).text.translate(None, _BLANKS)
        return hashlib.blake2b(
            plain, digest_size=_HASH, key=self._bytes, person=_PURPOSE
        ).hexdigest()


def _make(path: Path) -> None:
    """Whole or not at all; of two that make it at the same time, one wins."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(secrets.token_bytes(SIZE))
            file.flush()
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        made.unlink()


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise KeyUnusable(f"{path}: no regular file; remove it, a key is made anew")
        if about.st_uid not in (0, os.geteuid()):
            raise KeyUnusable(f"{path}: belongs to user {about.st_uid}; chown it to who runs this")
        if about.st_mode & 0o077:
            mode = stat.S_IMODE(about.st_mode)
            raise KeyUnusable(
                f"{path}: mode {mode:04o} lets others read it; remove it, a key is made anew"
            )
        key = file.read(SIZE + 1)
    if len(key) != SIZE:
        raise KeyUnusable(f"{path}: not {SIZE} bytes; remove it, a key is made anew")
    return key
