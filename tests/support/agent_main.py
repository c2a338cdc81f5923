"""What support.agent starts: `hullwatch up` with options that its command line does not have.

Usage: agent_main.py OPTIONS_JSON RULES...
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

import msgspec

from hullwatch.cli.up import load_rules
from hullwatch.daemon import Daemon, Options, route_signals


def main() -> None:
    options = msgspec.json.decode(
        sys.argv[1], type=Options, dec_hook=lambda kind, value: kind(value)
    )
    daemon = Daemon(options, load_rules([*map(type(options.store), sys.argv[2:])]))
    route_signals(daemon)
    daemon.run()


main()
