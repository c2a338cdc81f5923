#!/usr/bin/env python3
"""Boot a Debian kernel with BPF LSM active on this root file system, and run a command in it.

    tests/vm/run.py [--kernel 6.1] [--memory 2G] -- COMMAND...

virtme-ng shares the root file system read-only over 9p and lays overlays over it, so the guest has
the same programs and the same clone of the repository, and cannot harm either. The guest is
emulated (TCG), which works everywhere: about 15 seconds for a boot. HULLWATCH_VM_KVM=1 uses KVM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).with_name("guest.py")
CACHED = "/mnt"
LSM = "lockdown,capability,landlock,bpf"
NO_STATUS = 125  # the guest died before it could tell


class VmError(RuntimeError):
    """The guest could not be started; the message says what is missing."""


def kernels() -> list[Path]:
    """Bootable kernels of this machine that have their modules and BTF, oldest first."""
    found = []
    for image in Path("/boot").glob("vmlinuz-*"):
        release = image.name.removeprefix("vmlinuz-")
        if Path("/lib/modules", release).is_dir():
            found.append(image)
    return sorted(found, key=lambda image: [int(part) for part in re.findall(r"\d+", image.name)])


def kernel(series: str) -> Path:
    """The newest installed kernel of a series, such as "6.1"; or the path of an image as it is."""
    if Path(series).is_file():
        return Path(series)
    matching = [k for k in kernels() if k.name.startswith(f"vmlinuz-{series}.")]
    if not matching:
        have = ", ".join(k.name for k in kernels()) or "none"
        raise VmError(f"no kernel {series} in /boot (there: {have}); apt-get install linux-image-*")
    return matching[-1]


def vng() -> str:
    """Full path of virtme-ng: the one beside this interpreter, else the first in PATH."""
    beside = Path(sys.executable).with_name("vng")
    path = str(beside) if beside.exists() else shutil.which("vng")
    if path is None:
        raise VmError("virtme-ng is missing: pip install virtme-ng (extra 'dev')")
    if shutil.which("qemu-system-x86_64") is None:
        raise VmError("qemu is missing: apt-get install qemu-system-x86")
    return path


def run(
    image: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    share: Sequence[Path] = (),
    memory: str = "4G",
    cpus: int = 1,
    lsm: str = LSM,
    timeout: float | None = None,
) -> int:
    """Boot `image`, run `argv` there as root, and return its exit status.

    Output goes to this process's stdout and stderr as it comes. `share` lists existing directories
    that the guest may write to; all else it writes is lost with it. The job's description travels
    in a shared directory since a kernel command line holds 2048 bytes only. One CPU: emulation on
    several runs stale code after the kernel has patched it on another (static keys, ftrace, BPF
    trampolines), and the guest dies of "Oops: int3" (seen with QEMU 7.2 and Linux 6.12).

    Raises VmError when the guest cannot start, subprocess.TimeoutExpired after `timeout` seconds
    (the guest is gone by then).
    """
    program = vng()
    build = ROOT / "build" / "vm"
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-", dir=build) as name:
        job = Path(name)
        (job / "job.json").write_text(
            json.dumps({"argv": list(argv), "cwd": str(cwd or Path.cwd()), "env": dict(env or {})})
        )
        command = [program, "--run", str(image), "--force-9p", "--rwdir", str(job)]
        # The root again, for guest.py to mount with a cache: virtme-ng's own mount has none.
        command += [f"--rodir={CACHED}=/"]
        for path in share:
            command += ["--rwdir", str(path)]
        # Not decided by /dev/kvm: inside a virtual machine it may open and then never run a guest.
        if os.environ.get("HULLWATCH_VM_KVM") != "1":
            command.append("--disable-kvm")
        command += ["--memory", memory, "--cpus", str(cpus), "--append", f"lsm={lsm}"]
        # A second serial line, as virtme-ng throws the first away: last words of a dying kernel.
        command += [f"--qemu-opts=-serial file:{job / 'console'}"]
        command += ["--append", "earlycon=uart8250,io,0x2f8 keep_bootcon loglevel=5"]
        command += ["--", sys.executable, str(GUEST), str(job)]
        search = os.pathsep.join([str(Path(program).parent), os.environ.get("PATH", os.defpath)])
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            # Pipes, since qemu opens its output by name: a log file would be written from its
            # beginning again, over what is in it.
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": search},
            start_new_session=True,
        )
        assert process.stdout and process.stderr
        copiers = [
            threading.Thread(target=_copy, args=(process.stdout.fileno(), 1), daemon=True),
            threading.Thread(target=_copy, args=(process.stderr.fileno(), 2), daemon=True),
        ]
        for copier in copiers:
            copier.start()
        try:
            process.wait(timeout)
        finally:
            # vng starts qemu in its own process group; a failure here must not leave it behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for copier in copiers:
                copier.join(10)
        status = job / "status"
        if status.exists():
            return int(status.read_text())
        console = (
            (job / "console").read_text(errors="replace") if (job / "console").exists() else ""
        )
        print("run.py: the guest died; the end of its console:", file=sys.stderr)
        print("\n".join(console.splitlines()[-40:]), file=sys.stderr, flush=True)
        return NO_STATUS


def _copy(source: int, target: int) -> None:
    """Copy between descriptors until end of file."""
    while data := os.read(source, 65536):
        while data:
            data = data[os.write(target, data) :]


def main() -> int:
    """Command line: the exit status is the guest command's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", default="", help="series (6.1, 6.12) or image; newest if unset")
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--cpus", type=int, default=1, help="more than 1 only with KVM")
    parser.add_argument("--lsm", default=LSM, help="the kernel's lsm= option")
    parser.add_argument("--share", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument(
        "--timeout", type=float, default=1200, help="seconds after which the guest is killed"
    )
    parser.add_argument("command", nargs="+", help="after --: what to run there")
    options = parser.parse_args()
    try:
        image = kernel(options.kernel) if options.kernel else (kernels() or [Path()])[-1]
        if not image.is_file():
            raise VmError("no kernel in /boot; apt-get install linux-image-amd64")
        return run(
            image,
            options.command,
            share=options.share,
            memory=options.memory,
            cpus=options.cpus,
            lsm=options.lsm,
            timeout=options.timeout,
        )
    except VmError as error:
        print(f"run.py: {error}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        print(f"run.py: the guest was killed after {options.timeout:g} s", file=sys.stderr)
    return NO_STATUS


if __name__ == "__main__":
    sys.exit(main())
