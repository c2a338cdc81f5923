"""Hullwatch: runtime security for containerised AI workloads."""

__version__ = "0.1.0"
