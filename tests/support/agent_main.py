"""What support.agent starts: `hullwatch up` with options that its command line does not have.

Usage: agent_main.py OPTIONS_JSON RULES...
ASKING: of a webhook, as `hullwatch.cli.asking` has it from the command line, JSON.
PATIENCE: s that it may be silent, and its policy thread, before policies that fail open let go.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from hullwatch import privileges
from hullwatch.cli.asking import Asking
from hullwatch.store import lock


def main() -> None:
    os.umask(0o077)
    store = Path(json.loads(sys.argv[1])["store"])
    lock.make(store)
    told = Asking(**json.loads(os.environ.get("ASKING", "{}"))).checked(True).opened()
    rights = privileges.begin(store, *store.iterdir())

    import msgspec

    from hullwatch.cli.show import say
    from hullwatch.cli.up import load_rules
    from hullwatch.daemon import Daemon, Options, route_signals

    options = msgspec.json.decode(
        sys.argv[1], type=Options, dec_hook=lambda kind, value: kind(value)
    )
    options = msgspec.structs.replace(options, elsewhere=told)
    if patience := os.environ.get("PATIENCE"):
        from hullwatch import guarding
        from hullwatch.sensor import guard

        guard.ALIVE = guarding._HUNG = int(patience)
    rules = load_rules([*map(Path, sys.argv[2:])])
    daemon = Daemon(options, rules, rights, on_notice=lambda kind, text: say(f"{kind}: {text}"))
    route_signals(daemon)
    daemon.run()


main()
