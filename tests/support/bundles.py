"""OCI bundles: those of the demo, which lie in the package (hullwatch.demo.bundle)."""

from hullwatch.demo.bundle import Bundle, Mount, new_id

__all__ = ["Bundle", "Mount", "new_id"]
