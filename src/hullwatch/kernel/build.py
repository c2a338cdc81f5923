"""Compile the BPF programs: `python -m hullwatch.kernel.build`.

Writes hullwatch.<arch>.bpf.o beside the sources for every architecture in TARGETS. Needs clang and
libbpf's headers (Debian: clang, llvm, libbpf-dev, linux-libc-dev); raises SystemExit with the
compiler's words otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["TARGETS", "build", "object_path"]

HERE = Path(__file__).parent
TARGETS = {"x86_64": "x86", "arm64": "arm64"}
# linux/types.h needs asm/types.h, which Debian keeps in the multiarch folder of the build machine;
# the few typedefs in it are the same on both targets.
_ASM = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu")


def object_path(machine: str) -> Path:
    """The object for a machine name as uname(2) gives it."""
    return HERE / f"hullwatch.{'arm64' if machine in ('aarch64', 'arm64') else 'x86_64'}.bpf.o"


def write_ops() -> None:
    """ops.h: the positions of sensor/syscalls.py as an enum, so that both sides share one table."""
    from hullwatch.sensor.syscalls import OPS

    rows = "".join(f"\tHW_OP_{name} = {op},\n" for op, name in enumerate(OPS) if name)
    text = f"/* Made by build.py from sensor/syscalls.py. */\nenum hw_op {{\n{rows}}};\n"
    target = HERE / "ops.h"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def build() -> list[Path]:
    """Compile for every target; returns the objects."""
    write_ops()
    clang = shutil.which(os.environ.get("CLANG", "clang"))
    if not clang:
        raise SystemExit("build: no clang found; install it (Debian: apt-get install clang llvm)")
    made = []
    for arch, define in TARGETS.items():
        target = HERE / f"hullwatch.{arch}.bpf.o"
        command = [clang, "-g", "-O2", "-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{define}"]
        command += ["-Wall", "-Werror", "-Wno-unused-function", "-fno-stack-protector"]
        command += [f"-I{folder}" for folder in _ASM if os.path.isdir(folder)]
        command += ["-c", str(HERE / "hullwatch.bpf.c"), "-o", f"{target}.new"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"build: clang failed for {arch}\n{done.stderr}")
        strip = shutil.which("llvm-strip")
        if strip:
            # DWARF only: BTF stays.
            subprocess.run([strip, "-g", f"{target}.new"], check=True)
        os.replace(f"{target}.new", target)
        made.append(target)
    return made


if __name__ == "__main__":
    for path in build():
        sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")
