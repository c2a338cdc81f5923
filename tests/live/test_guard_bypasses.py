"""Ways around policies: each is tried in a container that nothing holds, where it has to work, and
in one that policies hold, where it has to end as coverage/promises.py says for this tier.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from hullwatch.coverage.promises import PROMISES, Promise
from hullwatch.sensor.tier import Tier
from hullwatch.sensor.tls import server_name
from support.agent import PACK, Agent
from support.bundles import Mount
from support.guarded import apply, hullwatch
from support.hellos import hello, of_records, with_extensions
from support.images import Image
from support.needs import missing
from support.puppet import Puppet
from support.runc import Network, Runc
from support.scratch import poll
from support.watch import missing_bpf

pytestmark = pytest.mark.timeout(600)
# What fills the kernel's tables takes a minute where it is emulated, and is the same there.
LONG = ("label-many-sockets", "label-many-pipes")

SOURCE = Path(__file__).parents[1] / "support" / "raw_calls.c"
FORBIDDEN = "169.254.169.254"
PLAIN = "198.51.100.9"
RESOLVER = "198.51.100.53"
FORGED = ("203.0.113.53", "203.0.113.54")  # resolvers, too, that nobody is

RULES = tuple(
    PACK / name for name in ("base.yaml", "tamper/evidence.yaml", "escape/isolation.yaml")
)
"""What finds those who reach for Hullwatch."""

POLICIES = """
@id("no-metadata")
forbid (principal, action == Action::"connect", resource is Address)
when { context has container && ["guarded", "listed"].contains(context.container) }
when { resource has ip && resource.ip.isInRange(ip("169.254.0.0/16")) };

@id("secret-stays")
forbid (principal, action == Action::"connect", resource is Host)
when { context.container == "guarded" && context.labels.contains("secret") }
unless { resource.name == "localhost" };

@id("no-evil")
@reason("nobody there is known")
forbid (principal, action == Action::"connect", resource is Host)
when { context.container == "guarded" && resource.name like "*.evil.example" };

@id("reports-stay")
forbid (principal, action == Action::"connect", resource is Address)
when { context.container == "guarded" && context has tool_call && context.tool_call == "report" }
when { resource has ip && resource.ip.isInRange(ip("198.51.100.14/32")) };

@id("no-shell")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && ["sh", "ash"].contains(resource.name) };

@id("no-path")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" }
when { ["/bin/true", "/opt/names/forbidden"].contains(resource.path) };

@id("no-later-code")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && resource has upper && resource.upper }
unless { resource.path like "/opt/names/*" };

@id("no-shadow")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "guarded" }
when { ["/etc/shadow", "/shared/secret", "/opt/folder/secret"].contains(resource.path) };

@id("no-wallets")
forbid (principal, action == Action::"use-secret", resource is Secret)
when { context.container == "guarded" && resource has kind && resource.kind == "wallet" };

@id("ask")
@effect("challenge")
forbid (principal, action in [Action::"open-read", Action::"use-secret"], resource)
when { context.container == "guarded" }
when { resource is Path && ["/etc/plan", "/etc/plans", "/proc/version"].contains(resource.path)
    || resource is Secret && resource has kind && resource.kind == "keyring" };

@id("ask-later")
@effect("challenge")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "guarded" && resource has upper && resource.upper }
when { resource.path == "/dev/shm/plan" };

@id("ask-programs")
@effect("challenge")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && resource.path == "/opt/names/asked" };

@id("ask-of-reports")
@effect("challenge")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && context has tool_call && context.tool_call == "report" };

@id("no-owned-by-busybox")
forbid (principal, action == Action::"exec", resource)
when { context.container == "guarded" && resource.path == "/opt/names/owned" }
when { context has program && context.program == "/bin/busybox" }
when { context has parent && context.parent like "/usr/bin/python3*" };

@id("no-motd-by-cat")
forbid (principal, action == Action::"open-read", resource)
when { context.container == "guarded" && resource.path == "/etc/motd" }
when { context has program && ["/bin/cat", "/bin/busybox"].contains(context.program) };

@id("no-clusters")
forbid (principal, action == Action::"use-secret", resource)
when { context.container == "guarded" && resource has kind && resource.kind == "kubeconfig" };

@id("no-pickles")
forbid (principal, action == Action::"load-plugin", resource)
when { context.container == "guarded" && resource has plugin && resource.plugin == "pickle" };

@id("no-socket")
forbid (principal, action == Action::"connect", resource is Address)
when { context.container == "guarded" && resource has path }
when { resource.path like "/opt/socks/*" || resource.path like "@forbidden*" };

@id("no-power")
forbid (principal, action == Action::"privilege", resource)
when { context.container == "guarded" && resource.path like "/opt/names/power*" };

@id("programs")
permit (principal == Workload::"listed", action == Action::"exec", resource)
when { resource.path like "/usr/bin/python3*" || resource.path == "/bin/sleep" };

@id("files")
permit (principal == Workload::"listed", action == Action::"open-read", resource)
when { ["/usr", "/lib", "/lib64", "/opt", "/tmp", "/dev", "/proc"].contains(resource.path)
    || resource.path like "/usr/*" || resource.path like "/lib*" || resource.path like "/tmp/*"
    || resource.path like "/dev/*" || resource.path like "/proc/*" || resource.path like "/opt/*"
    || resource.path like "/etc/ld.so*" || resource.path like "/puppet*" };

@id("writes")
permit (principal == Workload::"listed", action == Action::"open-write", resource)
when { resource.path like "/tmp/*" || resource.path like "/dev/*" || resource.path like "/proc/*"
    || resource.path like "/puppet*" };

@id("writes-of-python")
permit (principal == Workload::"listed", action == Action::"open-write", resource)
when { context has program && context.program like "/usr/bin/python3*" }
when { resource.path like "/srv/*" };

@id("hosts")
permit (principal == Workload::"listed", action == Action::"connect", resource is Host)
when { resource.name like "*.good.example" };
"""

PRELUDE = f"""
import functools, mmap, struct
sys.setswitchinterval(1e-5)  # for races
FORBIDDEN, PLAIN, RESOLVER, FORGED = {FORBIDDEN!r}, {PLAIN!r}, {RESOLVER!r}, {FORGED!r}
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
def mount(source, target, kind=None, flags=0, data=None):
    call('mount', source.encode(), target.encode(), kind and kind.encode(), flags, data)
BIND = 4096
def shell(path, name='sh'):
    return subprocess.run([name, '-c', 'exit 7'], executable=path).returncode == 7
def true(path):
    return subprocess.run(['true'], executable=path).returncode == 0
def runs(*words):
    return subprocess.run([*words, '-c', 'raise SystemExit(7)']).returncode == 7
def raw(*words):
    return subprocess.run(['/opt/names/raw_calls', *words], capture_output=True).stdout
def place():
    return '/tmp/' + os.urandom(6).hex()
def folder():
    os.makedirs(made := place())
    return made
def refused(act):
    try:
        act()
    except ConnectionRefusedError:
        return True
def child(act):
    if (pid := os.fork()) == 0:
        status = 1
        try:
            status = 7 if act() else 0
        finally:
            os._exit(status)
    return pid
def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def tried(act):
    try:
        return act()
    except PermissionError:
        return False
def reach(family=socket.AF_INET, address=FORBIDDEN):
    return refused(lambda: socket.socket(family).connect((address, 80)))
def secret():
    return open('/root/.aws/credentials').read()
def link(address=PLAIN):
    server = socket.create_server((address, 0))
    client = socket.create_connection(server.getsockname(), timeout=5)
    peer, _ = server.accept()
    peer.settimeout(0.25)
    return client, peer
def arrives(peer):
    try:
        return bool(peer.recv(100))
    except TimeoutError:
        return False
def sends(sock):
    sock.setblocking(False)
    return sock.send(b'secret')
"""


class Stage(NamedTuple):
    agent: Agent
    tier: Tier
    guarded: Puppet
    free: Puppet
    listed: Puppet
    store: Path

    @property
    def worker(self) -> int:
        """Who answers what fanotify asks."""
        found: int = (self.agent.status() or {})["opens"]["worker"]
        return found


FOUND = {
    "Hullwatch's own files written by another program": ("own-store",),
    "BPF objects of others taken hold of from a container": ("own-maps",),
    "Process traced or changed in a container": ("own-trace",),
}
"""By the rule that finds it, which attempts."""

NET_ADMIN = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)
"""As a file's capabilities: VFS_CAP_REVISION_2, effective."""

ATTEMPTS: dict[str, Callable[[Stage, Puppet], object]] = {}
"""By the key of a promise. True: it has worked. None: the process was killed."""


def attempt(key: str) -> Callable[[Callable[[Stage, Puppet], object]], None]:
    def keep(act: Callable[[Stage, Puppet], object]) -> None:
        ATTEMPTS[key] = act

    return keep


def code(key: str, text: str) -> None:
    ATTEMPTS[key] = lambda _, puppet: puppet.do(PRELUDE + text)


# -- programs ---------------------------------------------------------------------------------

code("exec", "said = shell('/bin/sh')")
code("exec-symlink", "os.symlink('/bin/sh', at := place()); said = shell(at)")
code(
    "exec-proc-root", "said = shell('/proc/self/root/bin/sh') and true('/proc/self/root/bin/true')"
)
code(
    "exec-fd",
    """
fd = os.open('/bin/true', os.O_RDONLY)
said = end(child(lambda: os.execve(fd, ['true'], {}))) == 0
""",
)
code(
    "exec-bind-mount",
    """
mount('/bin', at := folder(), None, BIND)
open(one := place(), 'w').close()
mount('/bin/true', one, None, BIND)
said = true(at + '/true') or true(one)
""",
)
code(
    "exec-chroot",
    """
mount('jail', at := folder(), 'tmpfs')
for name in ('bin', 'lib', 'lib64', 'usr'):
    if os.path.isdir('/' + name):
        os.mkdir(at + '/' + name)
        mount('/' + name, at + '/' + name, None, BIND)
def inside():
    os.chroot(at)
    os.chdir('/')
first = subprocess.run(['true'], executable='/bin/true', preexec_fn=inside).returncode == 0
at += '/bin'
said = first or subprocess.run(['true'], executable='/true', preexec_fn=inside).returncode == 0
""",
)
code(
    "exec-renamed",
    """
os.link('/bin/busybox', first := '/bin/' + os.urandom(6).hex())
os.rename(first, second := '/bin/' + os.urandom(6).hex())
said = shell(second)
""",
)
code("exec-other-name", "said = shell('/bin/sleep')")
code("exec-copied", "import shutil; said = shell(shutil.copy('/bin/busybox', place()))")
code(
    "exec-copied-by-name",
    "import shutil; said = shell(shutil.copy('/bin/busybox', '/opt/names/' + os.urandom(6).hex()))",
)
code(
    "exec-tmpfs",
    "import shutil; said = shell(shutil.copy('/bin/busybox', '/dev/' + os.urandom(6).hex()))",
)
code(
    "exec-memfd",
    """
fd = os.memfd_create('x')
os.write(fd, open('/bin/busybox', 'rb').read())
said = end(child(lambda: os.execve(fd, ['sh', '-c', 'exit 7'], {}))) == 7
""",
)
code(
    "exec-script-of-shell",
    """
at = '/opt/names/' + os.urandom(6).hex()
open(at, 'w').write('#!/bin/sh\\nexit 7\\n')
os.chmod(at, 0o755)
said = subprocess.run([at]).returncode == 7
""",
)
code(
    "exec-script-later",
    """
open(at := place(), 'w').write('#!/usr/bin/python3\\nraise SystemExit(7)\\n')
os.chmod(at, 0o755)
said = subprocess.run([at]).returncode == 7
""",
)
LOADER = """
import glob
loader = (glob.glob('/lib64/ld-linux*') + glob.glob('/lib/ld-linux*'))[0]
"""
code("exec-loader", LOADER + "said = runs(loader, '/opt/names/forbidden')")
code("exec-by-program", "said = runs('/bin/busybox', 'env', '/opt/names/owned')")
code(
    "exec-interpreter",
    "said = subprocess.run(['python3', '-c', 'raise SystemExit(7)']).returncode == 7",
)
code(
    "exec-race",
    """
os.symlink('/opt/names/raw_calls', at := place())
os.symlink('/opt/names/raw_calls', good := place())
os.symlink('/bin/sh', bad := place())
stop = False
def flip():
    while not stop:
        for one in (bad, good):
            os.symlink(os.readlink(one), new := place())
            os.replace(new, at)
flipper = threading.Thread(target=flip)
flipper.start()
said, until = False, time.monotonic() + 0.4
while not said and time.monotonic() < until:
    said = subprocess.run(['sh', '-c', 'exit 7'], executable=at, stderr=-3).returncode == 7
stop = True
flipper.join()
""",
)
code(
    "exec-namespaces",
    """
def act():
    call('unshare', 0x10000000 | 0x20000000 | 0x20000)  # user, pid, mount
    return end(child(lambda: tried(lambda: shell('/bin/sh') or true('/bin/true')))) == 7
said = end(child(act)) == 7
""",
)


code(
    "exec-many",
    """
pids = [child(lambda: os.execve('/bin/sh', ['sh', '-c', 'exit 7'], {})) for _ in range(100)]
said = 7 in [end(pid) for pid in pids]
""",
)


@attempt("exec-joins")
def _(_: Stage, puppet: Puppet) -> object:
    return puppet.container.exec(["/bin/sh", "-c", "exit 7"]).status == 7


# -- files ------------------------------------------------------------------------------------

code("open", "said = open('/etc/shadow').read() != ''")
code("open-symlink", "os.symlink('/etc/shadow', at := place()); said = open(at).read() != ''")
code(
    "open-hard-link",
    "os.link('/etc/shadow', at := '/etc/' + os.urandom(6).hex()); said = open(at).read() != ''",
)
code(
    "open-renamed",
    """
os.link('/shared/secret', a := '/shared/a')
os.rename(a, b := '/shared/b')
said = open(b).read() != ''
os.unlink(b)
""",
)
code(
    "open-folder-renamed",
    """
os.rename('/opt/folder', '/opt/another')
try:
    said = open('/opt/another/secret').read() != ''
finally:
    os.rename('/opt/another', '/opt/folder')
""",
)
code(
    "open-bind-mount",
    """
mount('/etc', at := folder(), None, BIND)
said = open(at + '/shadow').read() != ''
""",
)
code(
    "open-volume-mounted",
    """
def once():
    mount('/shared', at := folder(), None, BIND)
    return open(at + '/secret').read() != ''
said = any(tried(once) for _ in range(50))  # where it is asked about from a moment later on
""",
)
code("open-proc-root", "said = open('/proc/self/root/etc/shadow').read() != ''")
code(
    "open-by-program",
    "said = subprocess.run(['/bin/cat', '/etc/motd'], stdout=-3).returncode == 0",
)
code("secret", "said = open('/root/.kube/config').read() != ''")
code(
    "secret-symlink",
    "os.symlink('/root/.kube/config', at := place()); said = open(at).read() != ''",
)
code("load", "said = open('/opt/model.pkl').read() != ''")
code(
    "load-renamed",
    """
open('/proc/self/comm', 'w').write('cat')
said = open('/opt/model.pkl').read() != ''
""",
)
code(
    "load-interpreter-copied",
    """
import shutil
odd = shutil.copy('/opt/names/power', '/opt/names/' + os.urandom(6).hex())
said = subprocess.run([odd, '-c', "open('/opt/model.pkl')"], stderr=-3).returncode == 0
""",
)
code(
    "open-proc-fd",
    "fd = os.open('/etc/shadow', os.O_PATH); said = open(f'/proc/self/fd/{fd}').read() != ''",
)
code(
    "open-handle",
    """
class Handle(ctypes.Structure):
    _fields_ = [('bytes', ctypes.c_uint), ('type', ctypes.c_int), ('data', ctypes.c_char * 128)]
handle, number = Handle(128), ctypes.c_int()
call('name_to_handle_at', -100, b'/shared/secret', ctypes.byref(handle), ctypes.byref(number), 0)
at = os.open('/shared', os.O_RDONLY)
fd = call('open_by_handle_at', at, ctypes.byref(handle), os.O_RDONLY)
said = os.read(fd, 100) != b''
""",
)
code(
    "open-race",
    """
os.symlink('/etc/hostname', at := place())
stop = False
def flip():
    while not stop:
        for one in ('/etc/shadow', '/etc/hostname'):
            os.symlink(one, new := at + 'x')
            os.replace(new, at)
flipper = threading.Thread(target=flip)
flipper.start()
said, until = False, time.monotonic() + 0.8
while not said and time.monotonic() < until:
    try:
        fd = os.open(at, os.O_RDONLY)
    except OSError:
        continue
    said = b'root:' in os.read(fd, 100)
    os.close(fd)
stop = True
flipper.join()
""",
)
code(
    "open-many",
    """
pids = [child(lambda: tried(lambda: 'root' in open('/etc/shadow').read())) for _ in range(100)]
said = 7 in [end(pid) for pid in pids]
""",
)
code(
    "open-threads",
    """
os.symlink('/etc/hostname', at := place())
found, until = [], time.monotonic() + 0.8
def flip(number):
    while time.monotonic() < until:
        for one in ('/etc/shadow', '/etc/hostname'):
            os.symlink(one, new := at + str(number))
            os.replace(new, at)
def call():
    while not found and time.monotonic() < until:
        try:
            with open(at) as file:
                found.extend(['root:'] if 'root:' in file.read() else [])
        except OSError:
            pass
workers = [threading.Thread(target=call) for _ in range(8)]
workers += [threading.Thread(target=flip, args=[n]) for n in range(2)]
for one in workers:
    one.start()
for one in workers:
    one.join()
said = bool(found)
""",
)
code(
    "open-io-uring",
    "said = not raw('uring', 'open', '/etc/shadow').startswith(b'-')",
)
code(
    "open-32-bit",
    "said = not raw('int80', '5', '/etc/shadow', '0').startswith(b'-')",
)


def passed(stage: Stage, puppet: Puppet, sends: str, takes: str) -> object:
    """The free container opens the file and sends fds; this one takes them."""
    giver = stage.free.begin(
        PRELUDE
        + f"""
server = socket.socket(socket.AF_UNIX)
server.bind('/shared/passes')
server.listen()
to, _ = server.accept()
held = os.open('/etc/shadow', os.O_RDONLY)
socket.send_fds(to, [str(held).encode()], [{sends}])
to.recv(1)
os.unlink('/shared/passes')
"""
    )
    taken = puppet.do(
        PRELUDE
        + """
while not os.path.exists('/shared/passes'):
    time.sleep(0.01)
time.sleep(0.02)
"""
        + takes
    )
    stage.free.end(giver)
    return taken


TAKES = """
client = socket.socket(socket.AF_UNIX)
client.connect('/shared/passes')
said, fds, _, _ = socket.recv_fds(client, 10, 1)
"""


@attempt("open-passed")
def _(stage: Stage, puppet: Puppet) -> object:
    return passed(stage, puppet, "held", TAKES + "said = bool(fds) and os.read(fds[0], 9) != b''")


@attempt("open-passed-io-uring")
def _(stage: Stage, puppet: Puppet) -> object:
    takes = "said = not raw('uring', 'take', '/shared/passes').startswith(b'-')"
    return passed(stage, puppet, "held", takes)


@attempt("open-taken")
def _(stage: Stage, puppet: Puppet) -> object:
    takes = TAKES + "said = os.read(call('syscall', 438, fds[0], int(said), 0), 9) != b''"
    return passed(stage, puppet, "os.pidfd_open(os.getpid())", takes)


# -- secrets ----------------------------------------------------------------------------------

code(
    "secret-linked",
    """
os.link('/opt/.electrum/wallets/linked', at := '/opt/' + os.urandom(6).hex())
said = open(at).read() != ''
""",
)
code(
    "secret-bind-mount",
    """
mount('/opt/.electrum/wallets', at := folder(), None, BIND)
said = open(at + '/mounted').read() != ''
""",
)

# -- network ----------------------------------------------------------------------------------

code("connect", "said = reach()")
code("connect-mapped", "said = reach(socket.AF_INET6, '::ffff:' + FORBIDDEN)")
code("send", "said = socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (FORBIDDEN, 80)) == 1")
code(
    "connect-fast-open",
    "said = refused(lambda: socket.socket().sendto(b'x', socket.MSG_FASTOPEN, (FORBIDDEN, 80)))",
)
code(
    "connect-io-uring",
    "said = b'-111' in raw('uring', 'connect', '80', FORBIDDEN)",
)
code(
    "connect-32-bit",
    "said = b'-111' in raw('connect32', '80', '1', FORBIDDEN)",
)
code("socket-raw", "said = socket.socket(type=socket.SOCK_RAW, proto=1) is not None")
code(
    "socket-icmp",
    """
open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 0')
said = socket.socket(type=socket.SOCK_DGRAM, proto=1) is not None
""",
)
code("socket-udplite", "said = socket.socket(type=socket.SOCK_DGRAM, proto=136) is not None")
code("socket-sctp", "said = socket.socket(type=socket.SOCK_STREAM, proto=132) is not None")
code("socket-packet", "said = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) is not None")
code("socket-vsock", "said = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) is not None")
code(
    "connect-nested-cgroup",
    """
mount('cgroup', at := folder(), 'cgroup2')
at += next(line[3:].strip() for line in open('/proc/self/cgroup') if line.startswith('0::'))
for _ in range(14):
    os.mkdir(at := at + '/n')
    open(at + '/cgroup.procs', 'w').write(str(os.getpid()))
said = reach()
""",
)
code(
    "leave-cgroup",
    """
mount('cgroup', at := folder(), 'cgroup2')
before = at + next(line[3:].strip() for line in open('/proc/self/cgroup') if line.startswith('0::'))
os.mkdir(other := at + '/hwtest-' + os.urandom(6).hex())
open(other + '/cgroup.procs', 'w').write(str(os.getpid()))
try:
    said = tried(reach) or tried(lambda: shell('/bin/sh'))
finally:
    open(before + '/cgroup.procs', 'w').write(str(os.getpid()))
    os.rmdir(other)
""",
)
code(
    "clone-into-cgroup",
    """
class Clone(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in 'flags pidfd child parent signal stack size tls'
                ' tids count cgroup'.split()]
mount('cgroup', at := folder(), 'cgroup2')
os.mkdir(other := at + '/hwtest-' + os.urandom(6).hex())
into = os.open(other, os.O_RDONLY)
wish = Clone(flags=0x200000000, signal=signal.SIGCHLD, cgroup=into)
if (pid := call('syscall', 435, ctypes.byref(wish), ctypes.sizeof(wish))) == 0:
    status = 1
    try:
        status = 7 if tried(reach) or tried(lambda: shell('/bin/sh')) else 0
    finally:
        os._exit(status)
said = end(pid) == 7
os.rmdir(other)
""",
)
code(
    "connect-many",
    """
pids = [child(lambda: tried(reach)) for _ in range(100)]
said = 7 in [end(pid) for pid in pids]
""",
)
code(
    "connect-namespaces",
    """
call('unshare', 0x10000000)
try:
    said = reach()
    call('unshare', 0x40000000)
    said = said or socket.socket().connect((FORBIDDEN, 80))
except OSError as error:
    said = error.errno == errno.ENETUNREACH
""",
)
code(
    "connect-race",
    """
class Address(ctypes.Structure):
    _fields_ = [('family', ctypes.c_ushort), ('port', ctypes.c_ushort), ('ip', ctypes.c_char * 4),
                ('zero', ctypes.c_char * 8)]
good, bad = (socket.inet_aton(one) for one in (PLAIN, FORBIDDEN))
address = Address(socket.AF_INET, socket.htons(80), good)
at = ctypes.addressof(address) + 4
stop = False
def flip():
    while not stop:
        ctypes.memmove(at, bad, 4)
        ctypes.memmove(at, good, 4)
flipper = threading.Thread(target=flip)
flipper.start()
said, until = False, time.monotonic() + 0.4
while not said and time.monotonic() < until:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    if libc.connect(sock.fileno(), ctypes.byref(address), 16) == 0:
        said = sock.getpeername()[0] == FORBIDDEN
    sock.close()
stop = True
flipper.join()
""",
)

code(
    "connect-threads",
    """
class Address(ctypes.Structure):
    _fields_ = [('family', ctypes.c_ushort), ('port', ctypes.c_ushort), ('ip', ctypes.c_char * 4),
                ('zero', ctypes.c_char * 8)]
good, bad = (socket.inet_aton(one) for one in (PLAIN, FORBIDDEN))
address = Address(socket.AF_INET, socket.htons(80), good)
at = ctypes.addressof(address) + 4
found, until = [], time.monotonic() + 0.4
def flip():
    while time.monotonic() < until:
        ctypes.memmove(at, bad, 4)
        ctypes.memmove(at, good, 4)
def call():
    while not found and time.monotonic() < until:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            if libc.connect(sock.fileno(), ctypes.byref(address), 16) == 0:
                found.extend([True] if sock.getpeername()[0] == FORBIDDEN else [])
workers = [threading.Thread(target=one) for one in (*[call] * 8, *[flip] * 2)]
for one in workers:
    one.start()
for one in workers:
    one.join()
said = bool(found)
""",
)

# -- Unix sockets -----------------------------------------------------------------------------

UNIX = """
def name():
    return '/opt/socks/' + os.urandom(6).hex()
def served(at, kind=socket.SOCK_STREAM):
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(at)
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server
def joined(at):
    socket.socket(socket.AF_UNIX).connect(at)
    return True
"""

code("unix", f"{UNIX}server = served(at := name()); said = joined(at)")
code(
    "unix-other-name",
    f"""{UNIX}
server = served(at := name())
os.symlink(at, link := place())
os.link(at, hard := place())
mount('/opt/socks', there := folder(), None, BIND)
os.chdir('/opt/socks')
others = link, hard, there + at.removeprefix('/opt/socks'), os.path.basename(at)
said = any(tried(lambda: joined(one)) for one in others)
""",
)
code(
    "unix-datagram",
    f"""{UNIX}
server = served(at := name(), socket.SOCK_DGRAM)
said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', at) == 1
""",
)
code(
    "unix-abstract",
    f"{UNIX}server = served(at := '\\0forbidden' + os.urandom(6).hex()); said = joined(at)",
)
code(
    "unix-renamed",
    f"{UNIX}server = served(at := name()); os.rename(at, to := place()); said = joined(to)",
)

# -- rights -------------------------------------------------------------------------------------

POWER = """
def power(text, program='power', **how):
    start = 'import ctypes, os; libc = ctypes.CDLL(None); raise SystemExit(not (' + text + '))'
    return subprocess.run(['/opt/names/' + program, '-c', start], stderr=-3, **how).returncode == 0
"""

code(
    "power-setuid",
    f"""{POWER}
calls = 'libc.setgroups(0, 0)', 'libc.setgid(9)', 'libc.setuid(9)'
said = power(' or '.join('not ' + call for call in calls))
""",
)
code(
    "power-setuid-program",
    f"{POWER}said = power('os.geteuid() == 0 != os.getuid()', 'power-user', user=9)",
)
code(
    "power-capset",
    f"""{POWER}
header, data = '(ctypes.c_uint * 2)(0x20080522, 0)', '(ctypes.c_uint * 6)()'
said = power(f'not libc.capset({{header}}, {{data}})')
""",
)
code(
    "power-file-capability",
    f"""{POWER}
mine = 'int(open("/proc/self/status").read().split("CapPrm:")[1].split()[0], 16)'
said = power(mine + ' == 1 << 12', 'power-file', user=9)
""",
)
code(
    "power-mount",
    f"""{POWER}
mount('x', at := folder(), 'tmpfs')
def another_root():
    call('unshare', 0x20000)
    mount(at, at, None, BIND)
    os.chdir(at)
calls = f'libc.mount(b"x", b"{{folder()}}", b"tmpfs", 0, 0)', f'libc.umount2(b"{{at}}", 2)'
said = any(power('not ' + call) for call in calls)
number = 155 if os.uname().machine == 'x86_64' else 41
mount('x', at := folder(), 'tmpfs')
said = said or power(f'not libc.syscall({{number}}, b".", b".")', preexec_fn=another_root)
""",
)

# -- what has been read -------------------------------------------------------------------------

code("label-connect", "secret(); said = reach(address=PLAIN)")
code(
    "label-open-connection", "client, peer = link(); secret(); sends(client); said = arrives(peer)"
)
code(
    "label-inherited",
    """
client, peer = link()
child(lambda: [secret(), sends(client)])
said = arrives(peer)
""",
)
code(
    "label-passed-before",
    """
client, peer = link()
a, b = socket.socketpair()
def act():
    client.close()
    (taken,) = socket.recv_fds(b, 10, 1)[1]
    secret()
    sends(socket.socket(fileno=taken))
child(act)
socket.send_fds(a, [b'x'], [client.fileno()])
said = arrives(peer)
""",
)
code(
    "label-passed-after",
    """
client, peer = link()
a, b = socket.socketpair()
def act():
    client.close()
    secret()
    b.send(b'x')
    (taken,) = socket.recv_fds(b, 10, 1)[1]
    sends(socket.socket(fileno=taken))
child(act)
a.recv(1)
socket.send_fds(a, [b'x'], [client.fileno()])
said = arrives(peer)
""",
)
code(
    "label-helper",
    """
a, b = socket.socketpair()
client, peer = link()
child(lambda: [b.recv(100), sends(client)])
a.sendall(secret().encode())
said = arrives(peer)
""",
)
code(
    "label-file",
    """
client, peer = link()
open(at := place(), 'w').close()
end(child(lambda: open(at, 'w').write(secret())))
open(at).read()
sends(client)
said = arrives(peer)
""",
)
code(
    "label-shared-memory",
    """
client, peer = link()
shared = mmap.mmap(-1, 4096)
end(child(lambda: [client.close(), shared.write(secret().encode())]))
peer.settimeout(5)
client.send(shared[:10])
said = arrives(peer)
""",
)
code(
    "label-threads",
    """
said = False
def once():
    client, peer = link()
    told = threading.Event()
    def sender():
        told.wait()
        sends(client)
    thread = threading.Thread(target=sender)
    thread.start()
    secret()
    told.set()
    thread.join()
    peer.settimeout(0.05)
    return arrives(peer)
for _ in range(8):
    said = said or end(child(once)) == 7
""",
)
code(
    "label-routed",
    """
server = socket.create_server(('fd00::9', 0), family=socket.AF_INET6)
client = socket.create_connection(server.getsockname()[:2], timeout=5)
peer, _ = server.accept()
peer.settimeout(0.25)
client.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
secret()
sends(client)
said = arrives(peer)
""",
)


code(
    "label-passed-io-uring",
    """
client, peer = link()
server = socket.socket(socket.AF_UNIX)
server.bind(at := place())
server.listen()
def act():
    client.close()
    secret()
    os.execv('/opt/names/raw_calls', ['raw_calls', 'uring', 'take', at])
child(act)
to, _ = server.accept()
socket.send_fds(to, [b'x'], [client.fileno()])
peer.settimeout(1)
said = arrives(peer)
""",
)
code(
    "label-taken",
    """
client, peer = link()
helper = os.pidfd_open(os.getpid())
fd = client.fileno()
def act():
    client.close()
    secret()
    sends(socket.socket(fileno=call('syscall', 438, helper, fd, 0)))
child(act)
peer.settimeout(0.5)
said = arrives(peer)
""",
)
code(
    "label-far-fd",
    """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100_000, 100_000))
client, peer = link()
os.dup2(client.fileno(), 90_000)
client.close()
child(lambda: [secret(), sends(socket.socket(fileno=90_000))])
peer.settimeout(0.5)
said = arrives(peer)
""",
)
code(
    "label-many-sockets",
    """
client, peer = link()
made, stop = os.pipe(), os.pipe()
def others():
    os.close(stop[1])
    held = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(800)]
    os.write(made[1], b'x')
    os.read(stop[0], 1)
for _ in range(88):
    child(others)
for _ in range(88):
    os.read(made[0], 1)
child(lambda: [secret(), sends(client)])
peer.settimeout(0.5)
said = arrives(peer)
""",
)
code(
    "label-many-pipes",
    """
a, b = os.pipe()
client, peer = link()
def act():
    client.close()
    os.write(b, secret().encode())
    for _ in range(36_000):
        c, d = os.pipe()
        os.write(d, b'x')
        os.close(c)
        os.close(d)
end(child(act))
os.read(a, 100)
sends(client)
said = arrives(peer)
""",
)


# -- names ------------------------------------------------------------------------------------

ASKS = """
def answer(name, *addresses):
    parts = b''.join(bytes([len(one)]) + one.encode() for one in name.split('.')) + bytes(1)
    question = parts + struct.pack('>HH', 1, 1)
    head = b'\\xc0\\x0c' + struct.pack('>HHIH', 1, 1, 60, 4)
    records = b''.join(head + socket.inet_aton(one) for one in addresses)
    return struct.pack('>HHHHHH', 7, 0x8180, 1, len(addresses), 0, 0) + question + records
def told_by(server, data, **options):
    takes, gives = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    takes.bind(('127.0.0.1', 0))
    if options.get('foreign'):
        gives.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    gives.bind((server, 53))
    gives.sendto(data, takes.getsockname())
    takes.recv(1000)
def asked(name):
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.sendto(answer(name), (RESOLVER, 53))
    sock.recv(1000)
"""


def named(stage: Stage, puppet: Puppet, text: str) -> object:
    """In the container that may reach only some names, instead of the guarded one."""
    return (stage.listed if puppet is stage.guarded else puppet).do(PRELUDE + ASKS + text)


def resolves(stage: Stage, puppet: Puppet, name: str, *addresses: str) -> None:
    """The resolver, which is another container, answers one question."""
    resolver = stage.free.begin(
        PRELUDE
        + ASKS
        + f"""
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind((RESOLVER, 53))
sock.settimeout(5)
_, who = sock.recvfrom(1000)
sock.sendto(answer({name!r}, *{addresses!r}), who)
"""
    )
    time.sleep(0.05)
    assert named(stage, puppet, f"asked({name!r}); said = True") is True
    assert stage.free.end(resolver) == "done"


@attempt("name-rebound")
def _(stage: Stage, puppet: Puppet) -> object:
    resolves(stage, puppet, "a.good.example", FORBIDDEN, "198.51.100.10")
    who = stage.listed if puppet is stage.guarded else puppet
    who.until(PRELUDE + "said = tried(lambda: reach(address='198.51.100.10'))", True)
    return who.do(PRELUDE + "said = tried(reach)")


@attempt("name-answered-by-others")
def _(stage: Stage, puppet: Puppet) -> object:
    text = "told_by('127.0.0.5', answer('b.good.example', '198.51.100.11')); time.sleep(0.3)\n"
    return named(stage, puppet, text + "said = tried(lambda: reach(address='198.51.100.11'))")


@attempt("name-forged")
def _(stage: Stage, puppet: Puppet) -> object:
    forged = "answer('c.good.example', '198.51.100.12')"
    text = f"told_by(FORGED[0], {forged}, foreign=True); time.sleep(0.3)\n"
    return named(stage, puppet, text + "said = tried(lambda: reach(address='198.51.100.12'))")


@attempt("name-forged-by-others")
def _(stage: Stage, puppet: Puppet) -> object:
    """By a container of the same network, as those of a pod are."""
    who = stage.listed if puppet is stage.guarded else puppet
    server = who.begin(
        PRELUDE
        + """
takes = socket.socket(type=socket.SOCK_DGRAM)
takes.bind((PLAIN, 5353))
takes.settimeout(5)
takes.recv(1000)
time.sleep(0.3)
said = tried(lambda: reach(address='198.51.100.13'))
"""
    )
    who.until("said = any(':14E9 ' in one for one in open('/proc/net/udp'))", True)
    stage.free.do(
        PRELUDE
        + ASKS
        + """
gives = socket.socket(type=socket.SOCK_DGRAM)
gives.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
gives.bind((FORGED[1], 53))
for _ in range(30):
    gives.sendto(answer('d.good.example', '198.51.100.13'), (PLAIN, 5353))
    time.sleep(0.01)
"""
    )
    return who.end(server)


TLS = f"""
EVIL = {hello("api.evil.example")!r}
DIVIDED = {of_records(hello("api.evil.example"), 20)!r}
GOOD = {hello("a.good.example")!r}
def delivers(client, peer, *pieces):
    client.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        client.sendall(piece)
    data = b''
    try:
        while len(data) < sum(map(len, pieces)):
            data += peer.recv(10000)
    except TimeoutError:
        return False
    return True
"""
code("connect-sni", TLS + "said = delivers(*link(), EVIL)")
code(
    "connect-sni-split",
    TLS + "said = delivers(*link(), *(EVIL[n : n + 50] for n in range(0, len(EVIL), 50)))",
)
code("connect-sni-records", TLS + "said = delivers(*link(), DIVIDED)")
code(
    "connect-sni-urgent",
    TLS
    + """
client, peer = link()
peer.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
client.send(EVIL[:60])
client.send(b'x', socket.MSG_OOB)
said = delivers(client, peer, EVIL[60:])
""",
)
code(
    "connect-sni-mptcp",
    TLS
    + """
server = socket.create_server((PLAIN, 0))
client = socket.socket(proto=262)
client.connect(server.getsockname())
peer, _ = server.accept()
peer.settimeout(0.25)
said = delivers(client, peer, EVIL)
""",
)
code(
    "connect-sni-lie",
    TLS
    + """
server = socket.create_server((FORBIDDEN, 0))
client = socket.create_connection(server.getsockname(), timeout=5)
said = delivers(client, server.accept()[0], GOOD)
""",
)
code("connect-sni-later", TLS + "said = delivers(*link(), b'CONNECT there', EVIL)")
code(
    "connect-quic",
    "said = socket.socket(type=socket.SOCK_DGRAM).sendto(bytes([0xc0]) * 1200, (PLAIN, 443)) > 0",
)


@attempt("connect-sni-fronted")
def _(stage: Stage, puppet: Puppet) -> object:
    resolves(stage, puppet, "a.good.example", "198.51.100.13")
    who = stage.listed if puppet is stage.guarded else puppet
    here = PRELUDE + TLS + "link = functools.partial(link, '198.51.100.13')\n"
    who.until(here + "said = tried(lambda: delivers(*link(), GOOD))", True)
    return who.do(here + "said = delivers(*link(), EVIL)")


# -- tool calls -------------------------------------------------------------------------------

TELLS = """
link = socket.socket(socket.AF_UNIX)
link.connect('/calls/sock')
def tell(**said):
    link.sendall(json.dumps(said).encode() + b'\\n')
    said = json.loads(link.recv(4096))
    assert 'error' not in said, said
def call(name):
    ident = int.from_bytes(os.urandom(7), 'little')
    return dict(id=ident, kind='tool', source='context', name=name, begin=time.time_ns())
def wait(condition):
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
"""


@attempt("call-forged")
def _(stage: Stage, puppet: Puppet) -> object:
    """A server that acts for a call is told to act for another one, by a container beside it."""
    where = f"/shared/{puppet.container.name}"
    server = puppet.begin(
        PRELUDE
        + TELLS
        + f"""
tell(begin=call('report'), scope='process')
listens = socket.create_server(('127.0.0.1', 0))
before = tried(lambda: reach(address='198.51.100.14'))
open({where!r}, 'w').write(str(listens.getsockname()[1]))
wait(lambda: not os.path.exists({where!r}))
said = before, tried(lambda: reach(address='198.51.100.14'))
"""
    )
    stage.free.do(
        PRELUDE
        + TELLS
        + f"""
wait(lambda: os.path.exists({where!r}) and open({where!r}).read())
for _ in range(15):  # who listens there has to be known
    tell(serve='another', port=int(open({where!r}).read()))
    time.sleep(0.1)
tell(begin=call('other'), scope='server')
os.unlink({where!r})
time.sleep(1)
"""
    )
    before, then = puppet.end(server)
    assert before == (puppet is stage.free), "what its own call forbids"
    return then


# -- Hullwatch itself -------------------------------------------------------------------------


def own(key: str, text: str) -> None:
    """From the container that has all rights and no policies. AGENT: its pid."""
    ATTEMPTS[key] = lambda stage, _: stage.free.do(
        PRELUDE + f"AGENT = {stage.agent.process.pid}\n" + text
    )


own(
    "own-socket",
    """
sock = socket.socket(socket.AF_UNIX)
sock.connect('/host/var/lib/hullwatch/control.sock')
sock.sendall(b'{"ask": "status"}\\n')
said = b'"status"' in sock.recv(100)
""",
)
own("own-signal", "os.kill(AGENT, signal.SIGWINCH); said = True")
own("own-trace", "call('ptrace', 0x4206, AGENT, 0, 0); said = True")
own("own-memory", "said = open(f'/proc/{AGENT}/mem', 'rb') is not None")
own(
    "own-maps",
    """
def bpf(command, data):
    buffer = ctypes.create_string_buffer(data, 128)
    result = libc.syscall(321 if os.uname().machine == 'x86_64' else 280, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), 'bpf')
    return result, buffer.raw
number, said, refusals = 0, False, 0
while not said:
    try:
        _, data = bpf(12, number.to_bytes(4, 'little'))
    except FileNotFoundError:
        break
    number = int.from_bytes(data[4:8], 'little')
    try:
        fd, _ = bpf(14, number.to_bytes(4, 'little'))
    except PermissionError:
        refusals += 1
        continue
    info = ctypes.create_string_buffer(128)
    bpf(15, struct.pack('<IIQ', fd, 128, ctypes.addressof(info)))
    said = info.raw[24:40].startswith(b'guard_answers')
    os.close(fd)
said = said or refusals
""",
)
own("own-store", "open('/host/var/lib/hullwatch/notes', 'w').write('x'); said = True")


# -- the stage --------------------------------------------------------------------------------


def compiled(folder: Path) -> Path:
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs clang: apt-get install clang")
    program = folder / "raw_calls"
    subprocess.run([compiler, "-O1", "-w", "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, python_image: Image) -> Iterator[Stage]:
    if reason := missing("runc", "ip") or missing_bpf():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("bypasses")
    (store := folder / "store").mkdir(mode=0o700)
    (shared := folder / "shared").mkdir()
    (shared / "secret").write_text("root:x")
    program = compiled(folder)
    apply(store, POLICIES)
    network = Network("bypasses")
    for address in (
        *(f"198.51.100.{n}/32" for n in (9, 10, 11, 12, 13, 14, 53)),
        f"{FORBIDDEN}/32",
        "fd00::9/128",
    ):
        network.add_address(address)
    (calls := folder / "calls").mkdir()
    (desk := folder / "desk").mkdir()
    shares = [Mount(shared, "/shared", writable=True), Mount(calls, "/calls", writable=True)]

    def puppet(name: str, **options: object) -> Puppet:
        made = Puppet(runc, python_image, folder, name, network=network.path, **options)
        files = {
            "etc/shadow": "root:x:1::",
            "root/.aws/credentials": "key",
            "opt/folder/secret": "s",
            **{f"opt/.electrum/wallets/{name}": "w" for name in ("linked", "mounted")},
            "root/.kube/config": "k",
            "opt/model.pkl": "p",
            "etc/motd": "m",
            "etc/plan": "plan",
            "etc/plans/one": "plan",
            "opt/safe.kdbx": "safe",
            "opt/.password-store/one": "pass",
        }
        for path, text in files.items():
            (made.rootfs / path).parent.mkdir(parents=True, exist_ok=True)
            (made.rootfs / path).write_text(text)
        (made.rootfs / "opt/names").mkdir()
        shutil.copy(program, made.rootfs / "opt/names/raw_calls")
        python = (made.rootfs / "usr/bin/python3").resolve().name
        for copy in ("forbidden", "asked", "owned", "power", "power-user", "power-file"):
            shutil.copy(made.rootfs / "usr/bin" / python, made.rootfs / "opt/names" / copy)
        (made.rootfs / "opt/names/power-user").chmod(0o4755)
        os.setxattr(made.rootfs / "opt/names/power-file", "security.capability", NET_ADMIN)
        (made.rootfs / "opt/socks").mkdir()
        return made

    patch = pytest.MonkeyPatch()
    patch.setenv("HULLWATCH_APPROVALS", str(desk))
    try:
        with (
            Agent(store, rules=RULES, resolvers=(RESOLVER, *FORGED), calls=calls / "sock") as agent,
            Runc(python_image) as runc,
        ):
            guarded = puppet("guarded", privileged=True, mounts=shares)
            mounts = [*shares, Mount(store, "/host/var/lib/hullwatch", writable=True)]
            free = puppet("free", privileged=True, host_pid=True, mounts=mounts)
            listed = puppet("listed")
            guarded.until(PRELUDE + "said = reach()", "EPERM")
            listed.until(PRELUDE + "said = reach(address=PLAIN)", "EPERM")
            for path in (
                *("/etc/shadow", "/shared/secret", "/opt/folder/secret"),
                *("/root/.kube/config", "/opt/model.pkl"),
            ):
                guarded.until(f"open({path!r})", "EPERM")
            tier = Tier((agent.status() or {})["tier"])
            yield Stage(agent, tier, guarded, free, listed, store)
            assert not (agent.status() or {}).get("faults")
    finally:
        patch.undo()
        network.delete()


@pytest.mark.scenario
def test_each_promise_is_tried():
    assert {one.key for one in PROMISES} == {*ATTEMPTS}


@pytest.mark.scenario
def test_hellos_are_read_however_they_come(stage: Stage):
    """Names, versions, extensions and segments by chance: what is forbidden, and only that, does
    not arrive. Before the attempts, as some of them have all of the container labelled."""
    chosen = random.Random(7)
    cases: list[tuple[list[str], bool]] = []
    for number in range(36):
        evil = number % 3 == 0
        label = "".join(chosen.choices("abcxyz0123-.", k=chosen.randint(1, 60))).strip("-.") or "a"
        name = ".".join(part[:60] or "x" for part in label.split("."))
        name += ".evil.example" if evil else chosen.choice((".good.example", "evil.example", ".x"))
        if chosen.random() < 0.3:
            name = name.upper()
        protocols = ("h2", "http/1.1") if chosen.random() < 0.5 else ()
        data = hello(name, newest=chosen.random() < 0.7, protocols=protocols)
        for _ in range(chosen.randint(0, 3)):  # of types that nobody uses, RFC 8701
            size = chosen.choice((0, 7, 300, 3000))
            data = with_extensions(data, b"\x0a\x0a" + size.to_bytes(2, "big") + bytes(size))
        assert server_name(data) == name.lower()
        cuts = sorted(chosen.sample(range(1, len(data)), chosen.choice((0, 1, 2, 6))))
        pieces = [data[a:b].hex() for a, b in pairwise((0, *cuts, len(data)))]
        cases.append((pieces, not evil))
    for data in (hello(None), b"GET / HTTP/1.1\r\n\r\n", b"\x16", b"\x17\x04\0\0\0", bytes(300)):
        cases.append(([data.hex()], True))
    cases.append((["170303000100"], False))  # TLS, and not from its beginning
    said = stage.guarded.do(
        PRELUDE
        + TLS
        + f"""
said = []
for pieces, arrives in {cases!r}:
    client, peer = link()
    peer.settimeout(5 if arrives else 0.06)
    said.append(delivers(client, peer, *map(bytes.fromhex, pieces)))
"""
    )
    assert said == [arrives for _, arrives in cases]


def answered(stage: Stage, text: str, wish: str) -> tuple[object, list[str]]:
    """What comes of it where each that waits is answered so; what did."""
    waits, found = stage.guarded.begin(PRELUDE + text), dict[str, str]()
    while not select.select([waits], [], [], 0.05)[0]:
        for line in hullwatch("approvals", "list", "--json").splitlines():
            one = json.loads(line)
            if one["id"] not in found:
                found[one["id"]] = one["resource"]
                hullwatch("approvals", wish, one["id"], "--why", "a test")
    return stage.guarded.end(waits), [*found.values()]


@pytest.mark.scenario
def test_whoever_opens_what_a_person_is_asked_about_waits(stage: Stage):
    """Before the attempts, too: not where all of the container is labelled."""
    for path, wish, said in (
        ("/etc/plan", "approve", "plan"),
        ("/opt/safe.kdbx", "approve", "safe"),
        ("/etc/plan", "deny", "EPERM"),
    ):
        what, [resource] = answered(stage, f"said = open({path!r}).read()", wish)
        assert what == said and resource.endswith(path)
    # Nobody waits for a person in the kernel: there it is forbidden.
    text = "os.rename('/etc/plan', '/etc/other'); os.rename('/etc/other', '/etc/plan'); said = True"
    assert stage.guarded.do(PRELUDE + text) == ("EPERM" if stage.tier == Tier.LSM else True)


@pytest.mark.scenario
def test_whoever_runs_what_a_person_is_asked_about_waits(stage: Stage):
    for wish, said in (("approve", True), ("deny", "EPERM")):
        what, asked = answered(stage, "said = runs('/opt/names/asked')", wish)
        assert (what, asked) == (said, ["Binary:/opt/names/asked"])
    # Whatever is run is asked about here: the loader, too, but not what that maps.
    what, asked = answered(
        stage,
        TELLS
        + """
tell(begin=call('report'), scope='process')
wait(lambda: tried(lambda: reach(address='198.51.100.14')) is False)  # all know by then
said = runs('/usr/bin/python3')
""",
        "approve",
    )
    assert what is True and len(asked) == 2 and "ld-linux" in asked[1], asked
    # Of what is only mapped nobody is told.
    assert stage.guarded.do(PRELUDE + LOADER + "said = runs(loader, '/opt/names/asked')") is (
        stage.tier != Tier.LSM
    )


@pytest.mark.scenario
def test_programs_are_held_by_who_runs_them(stage: Stage):
    """The doorkeeper's, on both tiers, and told as any stop is."""
    text = "said = runs('/opt/names/owned'), runs('/bin/busybox', 'env', '/opt/names/owned')"
    assert stage.guarded.do(PRELUDE + text) == [True, False]

    def told() -> bool:
        lines = hullwatch("events", "--class", "policy", "--store", str(stage.store))
        return "exec /opt/names/owned: denied" in lines

    poll(told, seconds=60, waiting_for="the event")
    said = hullwatch("decisions", "--json", "--effect", "block", "--log", str(stage.store))
    rows = [one for one in map(json.loads, said.splitlines()) if "owned" in one["resource"]]
    assert [(one["tier"], one["policies"]) for one in rows] == [
        ("fanotify", ["no-owned-by-busybox"])
    ]


@pytest.mark.parametrize(
    "promise",
    [
        pytest.param(one, id=one.key, marks=() if one.key in LONG else pytest.mark.scenario)
        for one in PROMISES
    ],
)
def test_attempt(stage: Stage, promise: Promise):
    act = ATTEMPTS[promise.key]
    if not promise.key.startswith("own-"):
        here = act(stage, stage.free)
        if here is not True:
            pytest.skip(
                f"{promise.key}: not possible here where nothing is guarded, either: {here}"
            )
    worked = act(stage, stage.guarded)
    prevented = worked is not True
    assert prevented == promise.kept(stage.tier), f"{promise.key}: {worked}"


@pytest.mark.parametrize(
    "text",
    [
        "os.listdir('/etc/plans')",
        "open('/proc/version')",
        "mount('/opt/.password-store', at := folder(), None, BIND); open(at + '/one')",
        "open('/dev/shm/plan', 'w').close(); open('/dev/shm/plan')",
    ],
    ids=("folder", "proc", "second-name", "memory"),
)
def test_what_is_challenged_and_nobody_else_sees_is_refused(stage: Stage, text: str):
    """An open that fanotify does not tell of, or of which it is known there that much alone."""
    said = stage.guarded.do(PRELUDE + text + "; said = True")
    assert said == ("EPERM" if stage.tier == Tier.LSM else True)


@pytest.mark.scenario
@pytest.mark.parametrize("rule", FOUND)
def test_who_reaches_for_hullwatch_is_found(stage: Stage, rule: str):
    for key in FOUND[rule]:
        ATTEMPTS[key](stage, stage.free)
    ident = stage.free.container.id

    def found() -> bool:
        findings = list(stage.agent.findings.values())
        return any(one["rule"] == rule and one["container_full_id"] == ident for one in findings)

    poll(found, seconds=30, waiting_for=f"a finding of {rule!r}")


@pytest.mark.scenario
def test_what_is_refused_is_in_the_log(stage: Stage):
    if stage.tier != Tier.LSM:
        pytest.skip("needs BPF LSM: it cannot be refused here")
    ATTEMPTS["own-signal"](stage, stage.free)

    def logged() -> bool:
        said = hullwatch("decisions", "--json", "--log", str(stage.store))
        return any("Hullwatch itself" in json.loads(line)["reason"] for line in said.splitlines())

    poll(logged, seconds=30, waiting_for="an entry about a signal to the agent")


def refused(stage: Stage) -> list[str]:
    """What of the container with lists was stopped: so that a failure says by whom, and why."""
    said = hullwatch("decisions", "--json", "--effect", "block", "--log", str(stage.store))
    rows = [one for one in map(json.loads, said.splitlines()) if "listed" in one["principal"]]
    return [f"{one['tier']} {one['action']} {one['resource']}: {one['reason']}" for one in rows]


@pytest.mark.scenario
def test_a_stop_of_who_left_its_cgroup_is_its_containers(stage: Stage):
    said = stage.guarded.do(
        PRELUDE
        + """
mount('cgroup', at := folder(), 'cgroup2')
before = at + next(line[3:].strip() for line in open('/proc/self/cgroup') if line.startswith('0::'))
os.mkdir(other := at + '/hwtest-' + os.urandom(6).hex())
open(other + '/cgroup.procs', 'w').write(str(os.getpid()))
try:
    said = tried(lambda: socket.socket().connect((FORBIDDEN, 4711)))
finally:
    open(before + '/cgroup.procs', 'w').write(str(os.getpid()))
    os.rmdir(other)
"""
    )
    assert said is False

    def logged() -> str | None:
        lines = hullwatch("decisions", "--json", "--log", str(stage.store)).splitlines()
        found = (json.loads(line) for line in lines)
        return next((one["principal"] for one in found if ":4711" in one["resource"]), None)

    told = poll(logged, seconds=30, waiting_for="an entry about it")
    assert told == "Workload:guarded"


@pytest.mark.scenario
def test_lists_of_programs_and_files_do_not_break_the_runtime(stage: Stage):
    for _ in range(2):
        done = stage.listed.container.exec(["python3", "-c", "print(open('/tmp/x', 'w') and 5)"])
        assert (done.status, done.stdout.strip()) == (0, "5"), (done.stderr, refused(stage))
    assert stage.listed.container.exec(["/bin/sh", "-c", "exit 7"]).status not in (0, 7)


@pytest.mark.scenario
def test_a_list_that_has_a_permit_of_one_program_holds(stage: Stage):
    """Where the kernel holds opens it gives up such a list, and the doorkeeper takes it whole."""
    (stage.listed.rootfs / "srv").mkdir(exist_ok=True)
    write = "open({!r}, 'w').write('x'); said = 'written'"
    stage.listed.until(write.format("/opt/x"), "EPERM")
    assert stage.listed.do(write.format("/tmp/y")) == "written"
    assert stage.listed.do(write.format("/srv/x")) == "written"
    status = stage.agent.status() or {}
    assert status["opens"]["state"] == "asks" and not status["policy"]["unheld"]


@pytest.mark.scenario
def test_without_the_doorkeeper_what_waited_for_a_person_does_not_run(stage: Stage):
    """The last one: nothing is asked about after it."""
    runs, worker = PRELUDE + "said = runs('/opt/names/asked')", stage.worker
    waits = stage.guarded.begin(runs)
    poll(lambda: hullwatch("approvals", "list", "--json"), seconds=60, waiting_for="it to wait")
    refused = "EPERM" if stage.tier == Tier.LSM else False
    os.kill(worker, signal.SIGKILL)  # the kernel lets go what it held
    assert stage.guarded.end(waits) == refused
    poll(lambda: stage.worker not in (0, worker), seconds=60, waiting_for="a new start")
    here = Path(f"/proc/{stage.worker}")
    os.kill(int((here / "stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    poll(lambda: not here.exists(), seconds=60, waiting_for="the end of who answers")
    assert stage.guarded.do(runs) == refused
    assert stage.guarded.do(PRELUDE + "said = runs('/opt/names/owned')") is True
