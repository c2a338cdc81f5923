"""All kinds. Their order is their rank: where two overlap, the first says what it is."""

from __future__ import annotations

from hullwatch.agent.secrets.table.cloud import CLOUD
from hullwatch.agent.secrets.table.code import CODE
from hullwatch.agent.secrets.table.generic import GENERIC
from hullwatch.agent.secrets.table.keys import KEYS
from hullwatch.agent.secrets.table.models import MODELS
from hullwatch.agent.secrets.table.services import SERVICES

__all__ = ["KINDS"]

KINDS = (*CLOUD, *CODE, *MODELS, *SERVICES, *KEYS, *GENERIC)
