"""Services that give credentials to whoever asks them: metadata of clouds."""

from __future__ import annotations

__all__ = ["METADATA_SERVICES"]

# AWS, Azure, GCP and others; ECS; EKS pod identity; Alibaba; AWS over IPv6; Azure's host agent.
METADATA_SERVICES = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "100.100.100.200",
    "fd00:ec2::254",
    "168.63.129.16",
)
