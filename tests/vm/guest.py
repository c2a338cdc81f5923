"""First program in the guest: make it look like a plain host, then run the job.

virtme-ng has already mounted /proc, /sys, cgroup2 and copy-on-write overlays over /etc, /usr, /var
and /tmp. What is still missing for containers and BPF is done here. It runs on the guest's copy of
the host's file system with any python3 >= 3.11, hence the standard library only.

The root comes over 9p without a cache: each start of a program reads it all again. run.py shares it
a second time, below /mnt; what programs are read from is mounted from there, with a cache. That the
host changes it meanwhile is not noticed here, nor meant.

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

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = "/run/hullwatch-test"
CACHED = "/mnt"
NINE_P = "ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000"
# (source, target, type, options). SCRATCH is a tmpfs because overlayfs refuses an upper directory
# on 9p, and on the overlays that virtme-ng makes.
MOUNTS = (
    ("bpf", "/sys/fs/bpf", "bpf", "mode=700"),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
    ("securityfs", "/sys/kernel/security", "securityfs", ""),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
    ("scratch", SCRATCH, "tmpfs", "mode=755,size=60%"),
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mounted() -> set[str]:
    """The guest's mount points."""
    return {line.split()[1] for line in _mounts()}


def cache() -> None:
    """Mount what programs are read from once more, with a cache, in the place where it is."""
    source = next((line.split()[0] for line in _mounts() if line.split()[1] == CACHED), None)
    if source is None:
        return
    _mount("umount", CACHED)
    _mount("mount", "-t", "9p", "-o", NINE_P, source, CACHED)
    # virtme-ng's overlay goes on being one: tests install what they need.
    layers = Path(SCRATCH, "usr")
    for name in ("upper", "work"):
        (layers / name).mkdir(parents=True)
    options = f"lowerdir={CACHED}/usr,upperdir={layers}/upper,workdir={layers}/work"
    _mount("mount", "-t", "overlay", "-o", options, "overlay", "/usr")
    done = [Path("/usr")]
    for place in (ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()):
        if not any(place.is_relative_to(one) for one in done):
            done.append(place)
            _cover(place)


def _cover(target: Path) -> None:
    """Lay the cached copy of a directory over it; what is mounted below stays where it is."""
    below = [line.split()[1] for line in _mounts() if line.split()[1].startswith(f"{target}/")]
    kept = [(place, Path(SCRATCH, "kept", str(n))) for n, place in enumerate(below)]
    for place, beside in kept:
        beside.mkdir(parents=True)
        _mount("mount", "--bind", place, str(beside))
    _mount("mount", "--bind", f"{CACHED}{target}", str(target))
    for place, beside in kept:
        _mount("mount", "--bind", str(beside), place)
        _mount("umount", str(beside))
        beside.rmdir()


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _mount(*command: str) -> None:
    subprocess.run(command, check=True)


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
    cache()
    status = subprocess.run(job["argv"], cwd=job["cwd"], env=env, check=False).returncode
    if status < 0:
        status = 128 - status
    said = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout
    for line in said.splitlines():
        if any(word in line for word in ("Out of memory", "oom-kill", "segfault", "Oops")):
            print(f"guest.py: {line}", file=sys.stderr, flush=True)
    (job_dir / "status").write_text(f"{status}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
