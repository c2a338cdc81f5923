"""First program in the guest: make it look like a plain host, then run the job.

virtme-ng has already mounted /proc, /sys, cgroup2 and copy-on-write overlays over /etc, /usr, /var
and /tmp. What is still missing for containers and BPF is done here. It runs on the guest's copy of
the host's file system with any python3 >= 3.11, hence the standard library only.

Usage: guest.py JOB_DIR, where JOB_DIR/job.json holds {"argv": [...], "cwd": ..., "env": {...}}.
The exit status is left in JOB_DIR/status, since the console cannot be trusted to carry it when the
guest's kernel dies.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

# (source, target, type, options). /run/hullwatch-test is a tmpfs because overlayfs refuses an upper
# directory on 9p, and on the overlays that virtme-ng makes.
MOUNTS = (
    ("bpf", "/sys/fs/bpf", "bpf", "mode=700"),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
    ("securityfs", "/sys/kernel/security", "securityfs", ""),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
    ("scratch", "/run/hullwatch-test", "tmpfs", "mode=755,size=60%"),
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mounted() -> set[str]:
    """The guest's mount points."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {line.split()[1] for line in lines}


def prepare() -> None:
    """Mount what is missing, bring up loopback, raise the limits a login would have raised."""
    present = mounted()
    for source, target, kind, options in MOUNTS:
        if target in present:
            continue
        Path(target).mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", kind, source, target]
        if options:
            command[1:1] = ["-o", options]
        subprocess.run(command, check=False)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    # The host may have only part of these; a guest has all of them and should use them.
    for limit, value in (
        (resource.RLIMIT_NOFILE, 65536),
        (resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY),
    ):
        resource.setrlimit(limit, (value, value))


def main(job_dir: Path) -> int:
    """Run the job of `job_dir` and return its exit status."""
    job = json.loads((job_dir / "job.json").read_text())
    env = {
        "HOME": "/root",
        "PATH": PATH,
        "TERM": os.environ.get("TERM", "dumb"),
        "LANG": "C.UTF-8",
        "TMPDIR": "/run/hullwatch-test",
        "HULLWATCH_VM": "1",
        **job["env"],
    }
    os.environ["PATH"] = env["PATH"]
    prepare()
    status = subprocess.run(job["argv"], cwd=job["cwd"], env=env, check=False).returncode
    if status < 0:
        status = 128 - status
    (job_dir / "status").write_text(f"{status}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
