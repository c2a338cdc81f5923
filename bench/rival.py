"""bpftrace (Debian's) doing the same job: the same system calls and fields, as far as it can.

`print` writes a line an event to a file, as `record` keeps every event; `count` keeps a counter for
each program, call and string, as `detect` does for what no rule is about. It has the caller's text
for a path, never the kernel's, and no container, ancestry or flow bytes.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from pathlib import Path

from agent import Process

__all__ = ["Bpftrace"]

_CALLS = """
tracepoint:syscalls:sys_enter_openat { @path[tid] = args->filename; @flags[tid] = args->flags; }
tracepoint:syscalls:sys_exit_openat /@path[tid]/ { OPEN delete(@path[tid]); delete(@flags[tid]); }
tracepoint:syscalls:sys_enter_connect { @to[tid] = args->uservaddr; }
tracepoint:syscalls:sys_exit_connect /@to[tid]/ { CONNECT delete(@to[tid]); }
tracepoint:syscalls:sys_exit_accept { ACCEPT }
tracepoint:syscalls:sys_exit_accept4 { ACCEPT }
tracepoint:sock:inet_sock_set_state /args->newstate == 7 && args->oldstate != 10/ { CLOSE }
tracepoint:syscalls:sys_enter_execve { @argv[tid] = args->argv; }
tracepoint:sched:sched_process_exec { EXEC }
tracepoint:sched:sched_process_fork { FORK }
tracepoint:sched:sched_process_exit { EXIT }
END { clear(@path); clear(@flags); clear(@to); clear(@argv); }
"""
_WHO = "nsecs, cgroup, pid, tid, uid, comm"
_WHO_F = "%lld %lld %d %d %d %s"
_PRINT = {
    "OPEN": f'printf("open {_WHO_F} %s %x %d\\n", {_WHO}, str(@path[tid]), @flags[tid], '
    "args->ret);",
    "CONNECT": f'printf("connect {_WHO_F} %r %d\\n", {_WHO}, buf(@to[tid], 16), args->ret);',
    "ACCEPT": f'printf("accept {_WHO_F} %d\\n", {_WHO}, args->ret);',
    "CLOSE": f'printf("flow {_WHO_F} %d %d %d\\n", {_WHO}, args->sport, args->dport, '
    "args->oldstate);",
    "EXEC": f'printf("exec {_WHO_F} %s\\n", {_WHO}, str(args->filename)); delete(@argv[tid]);',
    "FORK": f'printf("fork {_WHO_F} %d\\n", {_WHO}, args->child_pid);',
    "EXIT": f'printf("exit {_WHO_F}\\n", {_WHO});',
}
_COUNT = {
    "OPEN": "@open[cgroup, comm, str(@path[tid])] = count();",
    "CONNECT": "@connect[cgroup, comm] = count();",
    "ACCEPT": "@accept[cgroup, comm] = count();",
    "CLOSE": "@flow[cgroup, args->dport] = count();",
    "EXEC": "@exec[cgroup, comm, str(args->filename)] = count(); delete(@argv[tid]);",
    "FORK": "@fork[cgroup, comm] = count();",
    "EXIT": "@exit[cgroup, comm] = count();",
}


class Bpftrace(Process):
    """In a mount namespace of its own, so that tracefs need not be mounted on this host."""

    def __init__(self, folder: Path, *, count: bool) -> None:
        text = _CALLS
        for name, action in (_COUNT if count else _PRINT).items():
            text = text.replace(name, action)
        script = folder / "rival.bt"
        script.write_text(text)
        self.out = folder / "rival.out"
        run = (
            "mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing; "
            "exec env BPFTRACE_STRLEN=64 BPFTRACE_MAP_KEYS_MAX=131072 "
            f"bpftrace -o {self.out} {script}"
        )
        super().__init__(["unshare", "-m", "sh", "-c", run], folder / "rival.log")
        time.sleep(4.0)  # it does not say when all its probes are attached
        self.alive()

    @staticmethod
    def there() -> bool:
        return shutil.which("bpftrace") is not None

    def settle(self) -> None:
        """Until it has written all that the kernel sent."""
        size = -1
        while size != self.out.stat().st_size:
            size = self.out.stat().st_size
            time.sleep(0.5)

    def kept(self, cgroup: int) -> Counter[str]:
        """Events of a cgroup that it printed or counted, by class. After `stop`."""
        found: Counter[str] = Counter()
        with self.out.open("rb") as lines:
            for line in lines:
                name, _, rest = line.partition(b" ")
                if line.startswith(b"@"):
                    name, _, rest = line[1:].partition(b"[")
                    whose, number = rest.partition(b",")[0], rest.rpartition(b": ")[2]
                    if whose == b"%d" % cgroup:
                        found[name.decode()] += int(number)
                elif rest.split(b" ", 2)[1:2] == [b"%d" % cgroup]:
                    found[name.decode()] += 1
        return found

    def stop(self, sign: int = signal.SIGINT) -> None:
        super().stop(sign)
