"""Where the gateway keeps what outlives it: pins, and the key of its hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Hasher", "directory", "hasher"]

Hasher = Callable[[bytes], str]
_ROOT = Path("/var/lib/hullwatch/mcp")
_KEY_SIZE = 32


def directory(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """root: beside the store; a user: below XDG_STATE_HOME (XDG Base Directory 0.8)."""
    if (os.geteuid() if uid is None else uid) == 0:
        return _ROOT
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = str(Path(environ.get("HOME") or Path.home()) / ".local" / "state")
    return Path(base) / "hullwatch" / "mcp"


def hasher(folder: Path) -> Hasher:
    """Equal arguments have equal hashes here, and nobody without the key can guess at them.

    The key is made on first use, of mode 0600. OSError where it cannot be.
    """
    path = folder / "hash.key"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        fresh = folder / f".hash.key.{os.getpid()}.{secrets.token_hex(4)}"
        file = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, secrets.token_bytes(_KEY_SIZE))
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(fresh, path)  # whoever comes second takes the first one's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
        key = path.read_bytes()
    if len(key) != _KEY_SIZE:
        raise OSError(f"{path}: not a key of {_KEY_SIZE} bytes; remove it")

    def keyed(data: bytes) -> str:
        return hashlib.blake2b(data, key=key, digest_size=16).hexdigest()

    return keyed
