"""required_engine_version and required_plugin_versions."""

from __future__ import annotations

import re

from hullwatch.detect.errors import RuleError
from hullwatch.detect.language.document import Value

__all__ = ["ENGINE", "PLUGINS", "check_engine", "check_plugins"]

# What this engine is compatible with: the engine of Falco 0.44.
ENGINE = (0, 57, 0)
# Falco 0.41 moved container.* and k8s.* to a plugin; here they are part of the engine.
PLUGINS = {"container": (0, 6, 99)}

_SEMVER = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+].*)?")


def check_engine(value: Value) -> tuple[int, int, int]:
    """The version asked for; raises RuleError when this engine is older or of another major."""
    said = str(value.data).strip()
    if said.isdigit() and len(said) < 7:
        wanted = (0, int(said), 0)  # Falco's implicit form: N means 0.N.0
    elif found := _SEMVER.fullmatch(said):
        wanted = (int(found[1]), int(found[2]), int(found[3]))
    else:
        raise RuleError(f"'{said}' is not a version", value.place, mend="write N or x.y.z")
    if wanted[0] != ENGINE[0] or wanted > ENGINE:
        ours = ".".join(map(str, ENGINE))
        raise RuleError(
            f"rules for engine {said}, but this engine is compatible with {ours}", value.place
        )
    return wanted


def check_plugins(value: Value) -> None:
    """Raises RuleError for a plugin that is not built in and has no alternative that is."""
    if not isinstance(value.data, list):
        raise RuleError("'required_plugin_versions' must be a sequence", value.place)
    for plugin in value.data:
        if not isinstance(plugin.data, dict):
            raise RuleError("a plugin must be a mapping with name and version", plugin.place)
        choices = [plugin.data]
        others = plugin.data.get("alternatives")
        if others is not None and isinstance(others.data, list):
            choices += [one.data for one in others.data if isinstance(one.data, dict)]
        names = [str(one["name"].data) for one in choices if "name" in one]
        if not any(name in PLUGINS for name in names):
            raise RuleError(
                f"plugin '{' or '.join(names) or '?'}' is not available",
                plugin.place,
                mend=f"built in: {', '.join(PLUGINS)}",
            )
