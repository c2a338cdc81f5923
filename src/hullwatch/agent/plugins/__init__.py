"""Code that is loaded at run time: of which kind a file is, by whom it is loaded, of which package.

Only paths are looked at, and who opened or mapped them: no content. See docs/plugins.md.
"""

from __future__ import annotations

from hullwatch.agent.plugins.kinds import KINDS, LIKELY, Kind, kind_of, loads
from hullwatch.agent.plugins.packages import Package, package_of

__all__ = ["KINDS", "Kind", "LIKELY", "Package", "kind_of", "loads", "package_of"]
