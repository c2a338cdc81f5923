"""How values reach the screen. Everything from a workload goes through `safe` first."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

__all__ = [
    "console",
    "iso",
    "print_json",
    "print_table",
    "quoted",
    "rows_of",
    "safe",
    "say",
    "short_time",
    "size",
    "text_of",
]

# What a terminal obeys or what hides text: C0, C1, DEL, line and paragraph separators, bidi
# controls (Trojan Source, CVE-2021-42574), zero-width characters, tags, lone surrogates.
_UNSAFE = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0xAD,
    0x061C,
    0x180E,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _escaped(code: int) -> str:
    char = chr(code)
    if char in _NAMED:
        return _NAMED[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_TABLE = {code: _escaped(code) for code in _UNSAFE}


def safe(value: object, width: int = 0) -> str:
    """Text that a terminal shows and never obeys; cut in the middle to `width` if that is > 0."""
    text = str(value).translate(_TABLE)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        text = "".join(_escaped(ord(c)) if "\ud800" <= c <= "\udfff" else c for c in text)
    if width and len(text) > width:
        head = (width - 1) * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
    return text


def console(stderr: bool = False) -> Console:
    """Rich's console: colour on a terminal only, no markup, no emoji."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = 100_000  # whoever reads a pipe wants whole lines
    return made


def say(text: str) -> None:
    """A remark beside the answer: stderr, so that a pipe gets only the answer."""
    print(f"hullwatch: {safe(text)}", file=sys.stderr)


def quoted(text: str) -> str:
    """Text as one word of a shell's command line, escaped; in double quotes if that is enough."""
    text = safe(text)
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def iso(moment: object) -> str:
    """datetime or unix ns to ISO 8601 in UTC with µs."""
    if isinstance(moment, int):
        moment = datetime.fromtimestamp(moment // 1000 / 1e6, UTC)
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return ""


def short_time(moment: object, seconds_only: bool = False) -> str:
    text = iso(moment).replace("T", " ").removesuffix("Z")
    return text[:19] if seconds_only else text[:23]


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _plain(value: Any) -> Any:
    """What JSON knows: dicts, lists, str, numbers, bool, None; times and the rest as text.

    SQL's NaN and infinities are no JSON: null. Its sums of whole numbers are Decimal: numbers.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "nanoseconds"):
        return _interval(*value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "__struct_fields__"):
        import msgspec

        return _plain(msgspec.to_builtins(value))
    return str(value)


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """SQL's INTERVAL (Arrow's month_day_nano), as `3 months 2 days -04:05:06.789`."""
    parts = [f"{n} {unit}" for n, unit in ((months, "months"), (days, "days")) if n]
    seconds, micro = divmod(abs(nanoseconds) // 1000, 1_000_000)
    if nanoseconds or not parts:
        sign = "-" if nanoseconds < 0 else ""
        clock = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        parts.append(clock + (f".{micro:06}".rstrip("0") if micro else ""))
    return " ".join(parts)


def print_json(value: Any, file: IO[str] | None = None) -> None:
    """One line of pure ASCII: no byte of it can do anything to a terminal."""
    text = json.dumps(_plain(value), ensure_ascii=True, allow_nan=False)
    print(text, file=file or sys.stdout, flush=True)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain values; an SQL MAP as a dict, where its keys are each there once."""
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="lossy")
    return rows


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> None:
    """Left-aligned columns; numbers right. Whole values: never cut, the terminal may wrap."""
    cells = [
        [
            _cell(row[name] if isinstance(row, Mapping) else row[at])
            for at, name in enumerate(columns)
        ]
        for row in rows
    ]
    if not columns:
        return
    widths = [
        max(len(safe(name)), *(len(row[at][0]) for row in cells), 0)
        for at, name in enumerate(columns)
    ]
    out = console()
    from rich.text import Text

    def line(row: Sequence[tuple[str, bool]]) -> str:
        return "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for (text, number), width in zip(row, widths, strict=True)
        ).rstrip()

    out.print(Text(line([(safe(name), False) for name in columns]), style="bold"))
    for row in cells:
        out.print(Text(line(row)))


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "-", False
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, int | float | Decimal):
        return safe(value), True
    return text_of(value), False


def text_of(value: Any) -> str:
    """A value of the store in a table or in CSV, escaped: a list by commas, nested ones as JSON."""
    plain = _plain(value)
    if isinstance(plain, list):
        return ",".join(text_of(item) for item in plain)
    if isinstance(plain, dict):
        return safe(json.dumps(plain, ensure_ascii=False))
    return safe(plain)
