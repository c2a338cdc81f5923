"""Models and vector stores: rules/model/."""

from __future__ import annotations

from support.attacks.attack import Attack

__all__ = ["ATTACKS"]

ATTACKS = (
    Attack(
        "weights-copied",
        'run("/bin/cp", "/models/tiny.gguf", "/tmp/out")',
        {"Model weights read by a copy or upload tool": "/models/tiny.gguf"},
        "cp",
    ),
    Attack(
        "weights-removed",
        'os.unlink("/models/old.gguf")',
        {"Model file removed or replaced in a model store": "/models/old.gguf"},
    ),
    Attack(
        "vectors-copied",
        'run("/bin/cat", "/srv/vectors/chroma.sqlite3")',
        {"Vector store copied by a tool": "/srv/vectors/chroma.sqlite3"},
        "cat",
    ),
    Attack(
        "vectors-changed",
        'run("/bin/dd", "if=/dev/null", "of=/srv/vectors/index.faiss")',
        {"Vector store changed by another program": "/srv/vectors/index.faiss"},
        "dd",
    ),
)
