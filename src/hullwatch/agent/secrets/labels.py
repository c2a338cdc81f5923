"""The table of secret places as labels that the kernel gives to whoever reads there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from hullwatch.agent.secrets.paths import PATHS
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.patterns import Pattern

__all__ = ["PERSONAL", "RANKS", "path_patterns"]

RANKS: Mapping[int, str] = dict(enumerate((name for name, _ in PATHS), 1))
"""Which class the place has whose pattern is of such a rank; '': none."""

# What somebody has said and done: nobody else's business, though it opens no doors.
PERSONAL = frozenset({"agent_transcript", "shell_history", "ssh_configuration"})


def path_patterns(labels: Iterable[str], private: Iterable[str] = ()) -> Iterator[Pattern]:
    """Patterns that agree with classify_path, for these labels; private: an operator's own, which
    hold whatever the table says."""
    wanted = bits_of(labels)
    secret, own = bits_of(["secret"]), bits_of(["private"])
    for rank, (name, patterns) in enumerate(PATHS, 1):
        bits = 0 if not name else own if name in PERSONAL else secret
        yield from (Pattern(text, bits & wanted, rank) for text in patterns.split())
    yield from (Pattern(text, own) for text in private)
