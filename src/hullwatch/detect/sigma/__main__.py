"""The child: a request on stdin, the reply on stdout, both JSON. Bounded by itself.

Exit code 3: pySigma is not installed.
"""

from __future__ import annotations

import importlib.util
import resource
import sys

import msgspec

from hullwatch.detect.sigma.messages import Request
from hullwatch.detect.sigma.reader import MAX_REPLY, MAX_REQUEST, MAX_SECONDS, NO_PYSIGMA

MAX_MEMORY = 2 << 30  # bytes of address space


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS + 1))
    if importlib.util.find_spec("sigma") is None:
        return NO_PYSIGMA
    from hullwatch.detect.sigma.convert import convert

    request = msgspec.json.decode(sys.stdin.buffer.read(MAX_REQUEST + 1), type=Request)
    reply = msgspec.json.encode(convert(request.texts))
    if len(reply) > MAX_REPLY:
        sys.stderr.write(f"the rules are larger than {MAX_REPLY} bytes when converted")
        return 1
    sys.stdout.buffer.write(reply)
    return 0


if __name__ == "__main__":
    sys.exit(main())
