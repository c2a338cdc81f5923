"""The wire format, read from kernel/wire.h, the only place where it is defined.

Enums become IntEnum/IntFlag classes, fixed-size structs become numpy dtypes of the same layout.
tests/unit/test_sensor_wire.py holds both to the BTF of the compiled object.
"""

from __future__ import annotations

import enum
import re
from importlib import resources
from typing import Any

import numpy as np

__all__ = [
    "DICT_HEADER",
    "ACTING",
    "AMBIGUOUS",
    "CALLS",
    "CALLS_AT_ONCE",
    "CALL_CHANGE",
    "CARRIED",
    "EVENT",
    "Action",
    "Privilege",
    "Holds",
    "Done",
    "GUARDED",
    "GUARD_ASKED",
    "GUARD_CARRIED",
    "GUARD_KEY",
    "GUARD_VALUE",
    "GUARD_PORT",
    "GUARD_NAME",
    "GUARD_NET",
    "GUARD_ROWS",
    "ROW_ANY",
    "ROW_UNKNOWN",
    "ROW_SAID",
    "ROW_SECRET",
    "NAME_ALONE",
    "TABLE_HOSTS",
    "UNREAD",
    "FACT_NEW",
    "FACT_UPPER",
    "MAPPED",
    "FIXED",
    "INODE_KEY",
    "INODE_LABELS",
    "LABELLED",
    "LABEL_CHANGE",
    "PACKET_HEADER",
    "PATH_STATE",
    "PATH_TABLE",
    "PROC",
    "SETTINGS",
    "SPREAD",
    "TAP_HEADER",
    "TAP_KEY",
    "VERDICT_KEY",
    "VERDICT_VALUE",
    "LOSS_KEY",
    "OF_THREAD",
    "Class",
    "Label",
    "LabelWay",
    "Mark",
    "ProcMark",
    "Stage",
    "StrKind",
    "TapKind",
    "TapWhat",
    "Verdict",
    "ACTION_UPPER",
    "ACTION_WRITE",
]

_TYPES = {
    "__u64": "<u8",
    "__u32": "<u4",
    "__s32": "<i4",
    "__u16": "<u2",
    "__u8": "u1",
    "char": "S",
}


def _source() -> str:
    text = (resources.files("hullwatch.kernel") / "wire.h").read_text()
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


_TEXT = _source()


def struct_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of `struct name`; raises KeyError if wire.h has no such struct."""
    found = re.search(rf"struct {name} \{{(.*?)\}};", _TEXT, re.S)
    if not found:
        raise KeyError(f"wire.h: no struct {name}")
    fields: list[Any] = []
    for ctype, field, count in re.findall(r"(\w+) (\w+)(?:\[(\w+)\])?;", found[1]):
        kind = _TYPES[ctype]
        if ctype == "char":
            fields.append((field, f"S{count}"))
        elif count:
            fields.append((field, kind, (_number(count),)))
        else:
            fields.append((field, kind))
    return np.dtype(fields, align=True)


def _number(text: str) -> int:
    """A number of the header, by its name or as it is."""
    found = re.search(rf"#define {text} (0x[0-9a-f]+|\d+)", _TEXT)
    return int(found[1] if found else text, 0)


def _enum_values(name: str, prefix: str) -> dict[str, int]:
    found = re.search(rf"enum {name} \{{(.*?)\}};", _TEXT, re.S)
    if not found:
        raise KeyError(f"wire.h: no enum {name}")
    values = {}
    for label, value in re.findall(r"(\w+) = ([0-9x< ]+),", found[1]):
        left, _, right = value.partition("<<")
        values[label.removeprefix(prefix)] = int(left, 0) << int(right or "0", 0)
    return values


def _make(base: Any, name: str, source: str, prefix: str) -> Any:
    """Any, because a type checker cannot read the header."""
    return base(name, _enum_values(source, prefix))


Class = _make(enum.IntEnum, "Class", "hw_class", "HW_")
Mark = _make(enum.IntFlag, "Mark", "hw_mark", "HW_M_")
ProcMark = _make(enum.IntFlag, "ProcMark", "hw_proc_mark", "HW_P_")
StrKind = _make(enum.IntEnum, "StrKind", "hw_str_kind", "HW_S_")
Verdict = _make(enum.IntEnum, "Verdict", "hw_verdict", "HW_V_")
Stage = _make(enum.IntEnum, "Stage", "hw_stage", "HW_L_")
TapWhat = _make(enum.IntEnum, "TapWhat", "hw_tap_what", "HW_T_")
TapKind = _make(enum.IntEnum, "TapKind", "hw_tap_kind", "HW_K_")
Label = _make(enum.IntFlag, "Label", "hw_label", "HW_LABEL_")
LabelWay = _make(enum.IntEnum, "LabelWay", "hw_label_way", "HW_LABEL_")
Action = _make(enum.IntEnum, "Action", "hw_action", "HW_A_")
Privilege = _make(enum.IntEnum, "Privilege", "hw_privilege", "HW_PRIVILEGE_")
Holds = _make(enum.IntFlag, "Holds", "hw_holds", "HW_G_")
Done = _make(enum.IntEnum, "Done", "hw_done", "HW_DONE_")

EVENT = struct_dtype("hw_event")
PROC = struct_dtype("hw_proc")
DICT_HEADER = struct_dtype("hw_string")
PACKET_HEADER = struct_dtype("hw_packet")
VERDICT_KEY = struct_dtype("hw_verdict_key")
VERDICT_VALUE = struct_dtype("hw_verdict_value")
LOSS_KEY = struct_dtype("hw_loss_key")
FIXED = struct_dtype("hw_fixed")
SETTINGS = struct_dtype("hw_settings")
ACTING = struct_dtype("hw_acting")
CALLS = struct_dtype("hw_calls")
TAP_HEADER = struct_dtype("hw_tap")
TAP_KEY = struct_dtype("hw_tap_key")
CALL_CHANGE = struct_dtype("hw_call_change")
LABELLED = struct_dtype("hw_labelled")
INODE_KEY = struct_dtype("hw_inode_key")
INODE_LABELS = struct_dtype("hw_inode_labels")
LABEL_CHANGE = struct_dtype("hw_label_change")
PATH_TABLE = struct_dtype("hw_path_table")
PATH_STATE = struct_dtype("hw_path_state")
ACTION_WRITE, ACTION_UPPER = 0x100, 0x200
AMBIGUOUS = OF_THREAD = 1 << 63
CALLS_AT_ONCE = _number("HW_CALLS_AT_ONCE")
CARRIED = _number("HW_CARRIED")
SPREAD = _number("HW_SPREAD")
GUARDED = struct_dtype("hw_guarded")
GUARD_KEY = struct_dtype("hw_guard_key")
GUARD_VALUE = struct_dtype("hw_guard_value")
GUARD_ASKED = struct_dtype("hw_guard_asked")
GUARD_CARRIED = struct_dtype("hw_guard_carried")
GUARD_PORT = struct_dtype("hw_guard_port")
GUARD_NAME = struct_dtype("hw_guard_name")
GUARD_SCOPE = struct_dtype("hw_guard_scope")
GUARD_SEEN = struct_dtype("hw_guard_seen")
GUARD_NET = struct_dtype("hw_guard_net")
GUARD_ROWS = _number("HW_GUARD_ROWS")
ROW_ANY, ROW_UNKNOWN = _number("HW_ROW_ANY"), _number("HW_ROW_UNKNOWN")
ROW_SAID, NAME_ALONE = _number("HW_ROW_SAID"), _number("HW_NAME_ALONE")
ROW_SECRET = _number("HW_ROW_SECRET")
TABLE_HOSTS, UNREAD = _number("HW_TABLE_HOSTS"), _number("HW_UNREAD")
FACT_UPPER, FACT_NEW = _number("HW_FACT_UPPER"), _number("HW_FACT_NEW")
MAPPED = _number("HW_MAPPED")
