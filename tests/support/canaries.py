"""A canary whose value tests know."""

from __future__ import annotations

import secrets

from hullwatch.agent.planted import Planted
from hullwatch.agent.secrets.canaries import Canaries, marks
from hullwatch.agent.secrets.canary import content
from hullwatch.agent.secrets.key import Key

__all__ = ["CANARIES", "KEY", "ONE", "TEXT", "VALUE", "planted"]

KEY = Key(bytes(range(32)))


def planted(form: str, text: str, path: str = "/root/api_key", container: str = "") -> Planted:
    return Planted(
        id=secrets.token_hex(4),
        form=form,
        file="/srv/x",
        path=path,
        container=container,
        size=1,
        ino=1,
        made=10**9,
        changed=1,
        marks=marks(form, text, KEY),
    )


TEXT = content("key")
VALUE = TEXT.strip()
ONE = planted("key", TEXT)
CANARIES = Canaries([(KEY, ONE)])
