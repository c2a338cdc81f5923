"""The mark to beat: Falco 0.44 with its 25 default rules, and what we aim at; printed as ratios.

Falco's figures were given to us, for the same storms on a machine like the one these benchmarks
were written on (two cores, Linux 6.18). Nothing here measures them; bpftrace is measured.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["verdicts"]


class Mark(NamedTuple):
    """storm, column of the storms' table, Falco's figure, the part of it that is the aim."""

    storm: str
    column: str
    falco: float
    aim: float
    unit: str


MARKS = (
    Mark("open1", "added_us", 2.35, 0.5, "µs longer an open+close"),
    Mark("open1", "agent_cpu_us", 5.5, 0.25, "µs of sensor CPU an open+close"),
    Mark("exec", "added_us", 108.0, 0.5, "µs longer an exec"),
    Mark("connect", "added_us", 18.0, 0.5, "µs longer a connect"),
)
RSS_AIM = 120.0  # MiB in detect mode, the most of all storms; Falco: 57
FALCO_LOSS = "1 to 8 %"


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Lines that hold the detect mode's rows (storms.py, `summary`) against the mark."""
    ours = {row["storm"]: row for row in rows if row["mode"] == "detect"}
    lines = []
    for mark in MARKS:
        row = ours.get(mark.storm)
        if row is None or row[mark.column] is None:
            continue
        found, aim = row[mark.column], mark.falco * mark.aim
        word = "met" if found <= aim else "MISSED"
        lines.append(
            f"{mark.storm:8} {found:8.2f} {mark.unit}: {found / mark.falco:.3f} of Falco's "
            f"{mark.falco:g}; aim {aim:.3g}: {word}"
        )
    for storm, row in ours.items():
        lost = sum(row["lost"].values())
        lines.append(
            f"{storm:8} {lost:8} of {row['done']} events lost"
            + (f" (Falco {FALCO_LOSS})" if storm == "open1" else "")
        )
    sizes = {storm: row["rss_mib"] for storm, row in ours.items() if row["rss_mib"]}
    if sizes:
        most = max(sizes, key=lambda storm: sizes[storm])
        word = "met" if sizes[most] <= RSS_AIM else "MISSED"
        lines.append(f"{most:8} {sizes[most]:8.0f} MiB RSS at most; aim {RSS_AIM:g}: {word}")
    return lines
