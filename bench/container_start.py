"""From a container's first instruction until policy holds it.

    python bench/container_start.py [--count N] [--json]

A policy forbids all connections of containers named `probe`. A static program, the first of its
container, tries to connect from its first instruction on, until it is told EPERM; it says how long
that took, and how many connections went on until then. Needs root, runc and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from hullwatch.demo import image
from hullwatch.demo.image import Image
from hullwatch.demo.runc import Runc
from hullwatch.demo.scratch import poll
from hullwatch.demo.watcher import Watcher

POLICY = """
@id("nothing") @reason("the probe connects to nobody")
forbid (principal, action == Action::"connect", resource)
when { context has container && context.container like "probe*" };
"""
# No route leads there, so that a connection that goes on fails at once, with another number.
PROBE = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	double begun = now();
	long passed = 0;

	inet_pton(AF_INET, "203.0.113.1", &to.sin_addr);
	while (now() - begun < 20000) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), held;

		held = connect(fd, (void *)&to, sizeof(to)) && errno == EPERM;
		close(fd);
		if (held) {
			printf("%.3f %ld\n", now() - begun, passed);
			return 0;
		}
		passed++;
	}
	return 1;
}
"""


def built(folder: Path) -> Image:
    root = folder / "rootfs"
    image.fill_busybox(root)
    source = folder / "probe.c"
    source.write_text(PROBE)
    compiler = shutil.which("clang") or shutil.which("cc") or "cc"
    command = [compiler, "-static", "-O2", "-o", str(root / "probe"), str(source)]
    subprocess.run(command, check=True)
    return Image("hullwatch.bench/probe:1", image.digest_of(root), root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Not on overlayfs, where an overlay can have no upper directory.
    with tempfile.TemporaryDirectory(prefix="hullwatch-hold-", dir="/run") as name:
        folder = Path(name)
        (folder / "set.cedar").write_text(POLICY)
        store = folder / "store"
        apply = ["hullwatch", "policy", "apply", str(folder / "set.cedar"), "--store", str(store)]
        subprocess.run([sys.executable, "-m", *apply], check=True, stdout=subprocess.DEVNULL)
        probe = built(folder)
        watcher = Watcher(store)
        found = []
        try:
            poll(
                lambda: (watcher.status() or {})["policy"]["generation"],
                seconds=60,
                waiting_for="the policy in the kernel",
            )
            with Runc(probe, folder) as runc:
                for number in range(options.count):
                    said = runc.run(["/probe"], name=f"probe-{number}").stdout.split()
                    found.append((float(said[0]), int(said[1])))
        finally:
            watcher.stop()
    took = sorted(one for one, _ in found)
    at_once = sum(not passed for _, passed in found)
    told = {
        "containers": len(found),
        "held_from_the_first_connection": at_once,
        "median_ms": round(statistics.median(took), 3),
        "p90_ms": round(took[int(len(took) * 0.9) - 1], 3),
        "worst_ms": round(took[-1], 3),
    }
    if options.json:
        print(json.dumps(told))
    else:
        for key, value in told.items():
            print(f"{key.replace('_', ' '):<32}{value}")


if __name__ == "__main__":
    main()
