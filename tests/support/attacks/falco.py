"""How each of Falco's rules is triggered in a real container, and what comes closest without.

Data only: tests/live/test_falco.py carries it out. Code is run by driver.py in a container of the
place named, a near miss in another of the same kind, so that their findings cannot fold into one.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import NamedTuple

from hullwatch.demo.image import busybox, fill_python, python
from support.images import Recipe

__all__ = ["CANNOT", "IMAGE", "OVERRIDDEN", "OVERRIDES", "PREPARE", "RULES", "Act", "Near", "Rule"]

PLAIN, MIGHTY, CAPABLE, SHOP, HOST = "plain", "mighty", "capable", "shop", "host"
EXEC, TERMINAL = "exec", "terminal"


class Act(NamedTuple):
    """code: for the driver of a container of this place; a command line where `way` says so.

    found: rule → the object of its one finding (a regular expression), beside the rule's own.
    way: '' driver, 'exec' runc exec, 'terminal' runc exec with a terminal, 'start' the start itself
    (containers of the places in `alike` show that too).
    """

    code: str
    object: str
    by: str = "python3"
    place: str = PLAIN
    way: str = ""
    found: dict[str, str] = {}  # noqa: RUF012
    alike: tuple[str, ...] = ()


class Near(NamedTuple):
    """As Act; the rule must be silent, and the sensor must have seen this event of it."""

    code: str
    event: str
    object: str
    by: str = "python3"
    place: str = PLAIN
    way: str = ""
    found: dict[str, str] = {}  # noqa: RUF012


class Rule(NamedTuple):
    """unknown: fields of the output that have no value in this act, and why that is right."""

    name: str
    act: Act
    near: Near
    unknown: tuple[str, ...] = ()


def twin(program: str, code: str) -> str:
    """Code for the driver: Python under another program's name does this."""
    return f'assert run("/usr/bin/{program}", "-c", {code!r}) == 0'


def runs(*argv: str) -> str:
    return f"run({', '.join(map(repr, argv))})"


def connects(address: str, port: int, kind: str = "STREAM") -> str:
    return (
        f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); "
        f"s.connect(({address!r}, {port})); s.close()"
    )


def _fill(root: Path) -> None:
    """Python and busybox under the names that the rules are about, all of them in the image."""
    fill_python(root)
    for name in _PYTHONS:
        os.link(root / "usr/bin" / python().name, root / "usr/bin" / name)
    for name in _TOOLS:
        os.link(root / "bin/busybox", root / "usr/bin" / name)


_PYTHONS = "nginx sshd ssh postgres bash crio tail id ssh-keygen scsi_id tarx".split()
_TOOLS = "debugfs debugfs5 ncat nmap nmapx apk apkx rsync rsyncd curl crontab crontabs".split()
IMAGE = Recipe("hullwatch.test/falco:1", _fill, lambda: [busybox(), python(), Path(__file__)])
X86 = platform.machine() == "x86_64"
_MODULE = 175 if X86 else 105  # init_module
_BPF = 321 if X86 else 280
EXE = ("fd.name",)  # an exec has no fd

# Which lists users fill in before a rule can hold at all; loaded after the unmodified files.
OVERRIDDEN = "Network Connection outside Local Subnet"
OVERRIDES = """
- list: namespace_scope_network_only_subnet
  items: [shop]
  override: {items: replace}
"""
# Files that the acts find there; made from outside before the container runs.
PREPARE = """
set -e
mkdir -p /srv/app /root/.ssh /etc/cron.d /etc/pam.d /var/log /usr/lib/lib /usr/local/share
echo x > /root/.ssh/id_ed25519; echo x > /root/.ssh/known_hosts
echo x > /etc/sudoers; echo x > /etc/pam.conf; echo x > /etc/pam.d/login
echo x > /root/.bash_history; echo x > /root/.bash_historic
echo x > /etc/cron.d/job; echo x > /srv/app/data; echo x > /var/log/auth.log
echo x > /srv/scratch; echo x > /srv/mode
echo x > /usr/lib/liblzma.so.5.6.1; echo x > /usr/lib/liblzma.so.5.6.2
cp /bin/busybox /srv/true; chmod 755 /srv/true
echo exit 0 > /srv/run.sh
"""

SETUID = "Non sudo setuid"
UNTRUSTED = "Read sensitive file untrusted"
NETWORK_TOOL = "Launch Suspicious Network Tool in Container"
INGRESS = "Launch Ingress Remote File Copy Tools in Container"
EC2 = "Contact EC2 Instance Metadata Service From Container"
CLOUD = "Contact cloud metadata service from container"
CAPABLE_START = "Launch Excessively Capable Container"
K8S = "kubernetes.default.svc.cluster.local"

STABLE = (
    Rule(
        "Directory traversal monitored file read",
        Act('open("/usr/../usr/../etc/passwd").close()', "/etc/passwd"),
        Near('open("/usr/../etc/passwd").close()', "open", "/etc/passwd"),
    ),
    Rule(
        "Read sensitive file trusted after startup",
        Act(
            twin("nginx", 'import time; time.sleep(5.5); open("/etc/pam.conf")'),
            "/etc/pam.conf",
            "nginx",
            found={UNTRUSTED: "/etc/pam.conf"},
        ),
        Near(
            twin("nginx", 'open("/etc/pam.conf")'),
            "open",
            "/etc/pam.conf",
            "nginx",
            found={UNTRUSTED: "/etc/pam.conf"},
        ),
    ),
    Rule(
        UNTRUSTED,
        Act(runs("/bin/cat", "/etc/shadow"), "/etc/shadow", "cat"),
        Near(runs("/bin/sh", "-c", "read x < /etc/shadow"), "open", "/etc/shadow", "sh"),
    ),
    Rule(
        "Run shell untrusted",
        Act(
            twin("nginx", 'import os; os.system("cd /; true")'),
            "/bin/sh",
            "sh",
        ),
        Near(twin("nginx", 'import os; os.system("whoami")'), "exec", "/bin/sh", "sh"),
    ),
    Rule(
        "System user interactive",
        Act(
            twin("sshd", 'import os; os.setresuid(1, 1, 1); os.system("true")'),
            "/bin/sh",
            "sh",
            found={SETUID: ""},  # busybox's shell gives up rights that it does not have
        ),
        Near(
            twin("sshd", 'import os; os.setresuid(1000, 1000, 1000); os.system("true")'),
            "exec",
            "/bin/sh",
            "sh",
            found={SETUID: ""},
        ),
    ),
    Rule(
        "Terminal shell in container",
        Act("/bin/ash -c true", "/bin/ash", "ash", way=TERMINAL),
        Near("/bin/ash -c true", "exec", "/bin/ash", "ash", way=EXEC),
    ),
    Rule(
        "Contact K8S API Server From Container",
        Act(
            f"socket.create_connection((resolve({K8S!r}), 443)).close()",
            "203.0.113.9:443",
        ),
        Near(
            f"socket.create_connection((resolve({'x.' + K8S!r}), 443)).close()",
            "connect",
            "203.0.113.9:443",
        ),
    ),
    Rule(
        "Netcat Remote Code Execution in Container",
        Act(
            runs("/bin/nc", "-e", "/bin/sh", "127.0.0.1", "1"),
            "/bin/nc",
            "nc",
            found={NETWORK_TOOL: "/bin/nc"},
        ),
        Near(
            runs("/bin/nc", "127.0.0.1", "1"),
            "exec",
            "/bin/nc",
            "nc",
            found={NETWORK_TOOL: "/bin/nc"},
        ),
    ),
    Rule(
        "Search Private Keys or Passwords",
        Act(runs("/bin/find", "/srv", "-name", "id_rsa"), "/bin/find", "find"),
        Near(runs("/bin/find", "/srv", "-name", "id_rs"), "exec", "/bin/find", "find"),
    ),
    Rule(
        "Clear Log Activities",
        Act('open("/var/log/auth.log", "w").close()', "/var/log/auth.log"),
        Near('open("/var/log/auth.log", "a").close()', "open", "/var/log/auth.log"),
    ),
    Rule(
        "Remove Bulk Data from Disk",
        Act(runs("/bin/shred", "/srv/scratch"), "/bin/shred", "shred"),
        Near(runs("/bin/rm", "/srv/scratch"), "exec", "/bin/rm", "rm"),
        EXE,
    ),
    Rule(
        "Create Symlink Over Sensitive Files",
        Act('os.symlink("/etc/shadow", "/tmp/link")', "/etc/shadow"),
        Near('os.symlink("/etc/passwd", "/tmp/link")', "symlink", "/etc/passwd"),
    ),
    Rule(
        "Create Hardlink Over Sensitive Files",
        Act('os.link("/etc/shadow", "/srv/hard")', "/etc/shadow"),
        Near('os.link("/etc/passwd", "/srv/hard")', "link", "/etc/passwd"),
    ),
    Rule(
        "Packet socket created in container",
        Act("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", ""),
        Near("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", "socket", ""),
        ("fd.name", "fd.lport", "fd.rport", "fd.l4proto"),
    ),
    Rule(
        "Redirect STDOUT/STDIN to Network Connection in Container",
        Act(
            'link = socket.create_connection(("127.0.0.1", 4444)); os.dup2(link.fileno(), 0)',
            "127.0.0.1:4444",
        ),
        Near(
            'link = socket.create_connection(("127.0.0.1", 4444)); os.dup2(link.fileno(), 9)',
            "connect",
            "127.0.0.1:4444",
        ),
    ),
    Rule(
        "Linux Kernel Module Injection Detected",
        Act(f'call({_MODULE}, b"", 0, b"")', "", place=MIGHTY),
        Near(f'call({_MODULE}, b"", 0, b"")', "module", ""),
    ),
    Rule(
        "Debugfs Launched in Privileged Container",
        Act(runs("/usr/bin/debugfs", "-R", "ls"), "/usr/bin/debugfs", "debugfs", MIGHTY),
        Near(runs("/usr/bin/debugfs", "-R", "ls"), "exec", "/usr/bin/debugfs", "debugfs"),
    ),
    Rule(
        "Detect release_agent File Container Escapes",
        Act('open("/srv/release_agent", "w").close()', "/srv/release_agent", place=MIGHTY),
        Near('open("/srv/release_agent", "w").close()', "open", "/srv/release_agent"),
    ),
    Rule(
        "PTRACE attached to process",
        Act(
            "pid = os.fork() or os.execv('/bin/sleep', ['sleep', '60'])\n"
            "_libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), None, None)\n"
            "os.kill(pid, 9); os.waitpid(pid, 0)",
            "",
        ),
        Near("_libc.ptrace(ctypes.c_long(6), ctypes.c_long(1), None, None)", "ptrace", ""),
    ),
    Rule(
        "PTRACE anti-debug attempt",
        Act("_libc.ptrace(ctypes.c_long(0), ctypes.c_long(0), None, None)", ""),
        Near(
            "_libc.ptrace(ctypes.c_long(6), ctypes.c_long(os.getppid()), None, None)", "ptrace", ""
        ),
    ),
    Rule(
        "Find AWS Credentials",
        Act(runs("/bin/grep", "-r", "aws_secret_access_key", "/srv/app"), "/bin/grep", "grep"),
        Near(runs("/bin/grep", "-r", "aws_region", "/srv/app"), "exec", "/bin/grep", "grep"),
    ),
    Rule(
        "Execution from /dev/shm",
        Act(
            'touch("/dev/shm/run.sh", "exit 0"); ' + runs("/bin/sh", "/dev/shm/run.sh"),
            "/bin/sh",
            "sh",
        ),
        Near(runs("/bin/sh", "/srv/run.sh"), "exec", "/bin/sh", "sh"),
        EXE,
    ),
    Rule(
        "Drop and execute new binary in container",
        Act(runs("/srv/true"), "/srv/true", "true"),
        Near(runs("/bin/true"), "exec", "/bin/true", "true"),
    ),
    Rule(
        "Disallowed SSH Connection Non Standard Port",
        Act(twin("ssh", connects("203.0.113.7", 443)), "203.0.113.7:443", "ssh"),
        Near(
            "listen(22)\n" + twin("ssh", connects("203.0.113.7", 22)),
            "connect",
            "203.0.113.7:22",
            "ssh",
        ),
    ),
    Rule(
        "Fileless execution via memfd_create",
        Act(
            'fd = os.memfd_create("payload", 0)\n'
            'os.write(fd, open("/bin/busybox", "rb").read())\n'
            'os.execv(f"/proc/self/fd/{fd}", ["true"]) if os.fork() == 0 else os.wait()',
            ".*payload.*",
            r"\d+",
        ),
        Near(
            'fd = os.open("/bin/busybox", os.O_RDONLY)\n'
            'os.execv(f"/proc/self/fd/{fd}", ["true"]) if os.fork() == 0 else os.wait()',
            "exec",
            "/bin/busybox",
            r"\d+",
        ),
    ),
)

INCUBATING = (
    Rule(
        "Modify Shell Configuration File",
        Act('open("/root/.bashrc", "w").close()', "/root/.bashrc"),
        Near(twin("bash", 'open("/root/.bashrc", "w")'), "open", "/root/.bashrc", "bash"),
    ),
    Rule(
        "Schedule Cron Jobs",
        Act('open("/etc/cron.d/job", "w").close()', "/etc/cron.d/job"),
        Near('open("/etc/cron.d/job").close()', "open", "/etc/cron.d/job"),
    ),
    Rule(
        "Read ssh information",
        Act('open("/root/.ssh/id_ed25519").close()', "/root/.ssh/id_ed25519"),
        Near(
            twin("ssh-keygen", 'open("/root/.ssh/id_ed25519")'),
            "open",
            "/root/.ssh/id_ed25519",
            "ssh-keygen",
        ),
    ),
    Rule(
        "DB program spawned process",
        Act(
            twin("postgres", 'import subprocess; subprocess.run(["/bin/date"])'),
            "/bin/date",
            "date",
        ),
        Near(
            twin("postgres", 'import subprocess; subprocess.run(["/usr/bin/postgres", "-c", ""])'),
            "exec",
            "/usr/bin/postgres",
            "postgres",
        ),
    ),
    Rule(
        "Change thread namespace",
        Act('_libc.setns(os.open("/proc/self/ns/uts", os.O_RDONLY), 0)', ""),
        Near(
            twin(
                "crio",
                "import ctypes, os; "
                'ctypes.CDLL(None).setns(os.open("/proc/self/ns/uts", os.O_RDONLY), 0)',
            ),
            "setns",
            "",
            "crio",
        ),
    ),
    Rule(
        "Change namespace privileges via unshare",
        Act("_libc.unshare(0x04000000)", ""),
        Near("_libc.unshare(0x04000000)", "unshare", "", place=MIGHTY),
    ),
    Rule(
        "Launch Privileged Container",
        Act("", "/usr/bin/python3.*", place=MIGHTY, way="start", alike=("mighty-near",)),
        Near("", "exec", "/usr/bin/python3.*", place=CAPABLE, way="start"),
    ),
    Rule(
        CAPABLE_START,
        Act(
            "",
            "/usr/bin/python3.*",
            place=CAPABLE,
            way="start",
            alike=("mighty", "mighty-near"),
        ),
        Near("", "exec", "/usr/bin/python3.*", way="start"),
    ),
    Rule(
        "System procs network activity",
        Act(twin("tail", connects("203.0.113.7", 80)), "203.0.113.7:80", "tail"),
        Near(twin("id", connects("203.0.113.7", 80)), "connect", "203.0.113.7:80", "id"),
    ),
    Rule(
        "Program run with disallowed http proxy env",
        Act('os.environ["HTTP_PROXY"] = "x"; run("/usr/bin/curl", "x")', "/usr/bin/curl", "curl"),
        Near(
            'os.environ["HTTPS_PROXY"] = "x"; run("/usr/bin/curl", "x")',
            "exec",
            "/usr/bin/curl",
            "curl",
        ),
    ),
    Rule(
        "Unexpected UDP Traffic",
        Act(connects("203.0.113.7", 9999, "DGRAM"), "203.0.113.7:9999"),
        Near(connects("203.0.113.7", 53, "DGRAM"), "connect", "203.0.113.7:53"),
    ),
    Rule(
        SETUID,
        Act("os.setresuid(2, 2, 2); os.setuid(2)", ""),
        Near("os.setresuid(0, 0, 0); os.setuid(0)", "setid", ""),
    ),
    Rule(
        "User mgmt binaries",
        Act("usermod", ".*/usermod", "usermod", HOST),
        Near("lastlog", "exec", ".*/lastlog", "lastlog", HOST),
    ),
    Rule(
        "Create files below dev",
        Act('open("/dev/hidden", "w").close()', "/dev/hidden"),
        Near('open("/dev/shm/hidden", "w").close()', "open", "/dev/shm/hidden"),
    ),
    Rule(
        EC2,
        Act(connects("169.254.169.254", 80), "169.254.169.254:80", found={CLOUD: "169.*:80"}),
        Near(connects("169.254.169.253", 80), "connect", "169.254.169.253:80"),
    ),
    Rule(
        CLOUD,
        Act(connects("169.254.169.254", 443), "169.254.169.254:443", found={EC2: "169.*:443"}),
        Near(connects("169.254.169.253", 443), "connect", "169.254.169.253:443"),
    ),
    Rule(
        "Launch Package Management Process in Container",
        Act(runs("/usr/bin/apk", "add", "x"), "/usr/bin/apk", "apk"),
        Near(runs("/usr/bin/apkx", "add", "x"), "exec", "/usr/bin/apkx", "apkx"),
    ),
    Rule(
        NETWORK_TOOL,
        Act(runs("/usr/bin/nmap", "x"), "/usr/bin/nmap", "nmap"),
        Near(runs("/usr/bin/nmapx", "x"), "exec", "/usr/bin/nmapx", "nmapx"),
    ),
    Rule(
        "Launch Suspicious Network Tool on Host",
        Act("tshark", ".*/tshark", "tshark", HOST),
        Near("tsharks", "exec", ".*/tsharks", "tsharks", HOST),
    ),
    Rule(
        "Delete or rename shell history",
        Act('os.unlink("/root/.bash_history")', "/root/.bash_history"),
        Near('os.unlink("/root/.bash_historic")', "unlink", "/root/.bash_historic"),
        ("fd.name", "evt.arg.oldpath"),
    ),
    Rule(
        "Set Setuid or Setgid bit",
        Act('os.chmod("/srv/mode", 0o4755)', "/srv/mode"),
        Near('os.chmod("/srv/mode", 0o755)', "chmod", "/srv/mode"),
        ("evt.arg.fd",),
    ),
    Rule(
        "Launch Remote File Copy Tools in Container",
        Act(runs("/usr/bin/rsync", "x"), "/usr/bin/rsync", "rsync"),
        Near(runs("/usr/bin/rsyncd", "x"), "exec", "/usr/bin/rsyncd", "rsyncd"),
    ),
    Rule(
        OVERRIDDEN,
        Act(connects("203.0.113.7", 443), "203.0.113.7:443", place=SHOP),
        Near(connects("10.1.2.3", 443), "connect", "10.1.2.3:443", place=SHOP),
        ("fd.rip.name", "fd.lip.name", "fd.cip.name", "fd.sip.name"),
    ),
    Rule(
        "Mount Launched in Privileged Container",
        Act(runs("/bin/mount", "-t", "tmpfs", "none", "/mnt"), "/bin/mount", "mount", MIGHTY),
        Near(runs("/bin/mount", "-l"), "exec", "/bin/mount", "mount", MIGHTY),
    ),
    Rule(
        INGRESS,
        Act(runs("/bin/wget", "-q", "http://127.0.0.1:1/x"), "/bin/wget", "wget"),
        Near(runs("/usr/bin/curl", "http://127.0.0.1:1/x"), "exec", "/usr/bin/curl", "curl"),
    ),
    Rule(
        "Read environment variable from /proc files",
        Act('open("/proc/1/environ").close()', "/proc/1/environ"),
        Near('open("/proc/1/status").close()', "open", "/proc/1/status"),
    ),
    Rule(
        "Exfiltrating Artifacts via Kubernetes Control Plane",
        Act("/bin/tar cf - /srv/app", "/srv/app/data", "tar", way=EXEC),
        Near(runs("/bin/tar", "cf", "-", "/srv/app"), "open", "/srv/app/data", "tar"),
    ),
    Rule(
        "Adding ssh keys to authorized_keys",
        Act('open("/root/.ssh/authorized_keys", "w").close()', "/root/.ssh/authorized_keys"),
        Near('open("/root/.ssh/known_hosts", "w").close()', "open", "/root/.ssh/known_hosts"),
    ),
    Rule(
        "Potential Local Privilege Escalation via Environment Variables Misuse",
        Act('os.environ["GLIBC_TUNABLES"] = "x"; run("/bin/su", "-V")', "/bin/su", "su"),
        Near('os.environ["GLIBC_TUNE"] = "x"; run("/bin/su", "-V")', "exec", "/bin/su", "su"),
    ),
    Rule(
        "Backdoored library loaded into SSHD (CVE-2024-3094)",
        Act(twin("sshd", 'open("/usr/lib/liblzma.so.5.6.1")'), "/usr/lib/liblzma.*", "sshd"),
        Near(
            twin("sshd", 'open("/usr/lib/liblzma.so.5.6.2")'), "open", "/usr/lib/liblzma.*", "sshd"
        ),
    ),
    Rule(
        "BPF Program Not Profiled",
        Act(f"call({_BPF}, 5, bytes(128), 128)", ""),
        Near(f"call({_BPF}, 0, bytes(128), 128)", "bpf", ""),
    ),
)
RULES = (*STABLE, *INCUBATING)

# Rules that this machine cannot trigger: name → why.
CANNOT: dict[str, str] = {}
