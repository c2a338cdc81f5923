"""Random scenes: enriched batches over few, telling values, so that rules meet and miss."""

from __future__ import annotations

import errno
import random

from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class, Mark, ProcMark

PATHS = (
    *(
        "/etc/shadow",
        "/etc/passwd",
        "/etc/sudoers.d/x",
        "/root/.ssh/id_rsa",
        "/home/a/.ssh/id_ed25519",
    ),
    *("/dev/shm/x", "/dev/tty0", "/dev/foo", "/proc/12/environ", "/proc/1/mem", "/var/log/syslog"),
    *("/root/.bash_history", "/etc/cron.d/job", "/tmp/x", "/sys/fs/cgroup/release_agent", "/"),
    *("/usr/lib/liblzma.so.5.6.1", "/srv/app/.env", "/x/site-packages/a.pth", "/models/a.gguf"),
    *("/run/secrets/kubernetes.io/serviceaccount/token", "/etc/hullwatch/a.yaml", "/root/.bashrc"),
)
RAW = ("", "../../etc/shadow", "/etc/../etc/shadow", "x/../../y/../../etc/shadow")
NAMES = (
    *(
        "bash",
        "sh",
        "python3",
        "node",
        "sshd",
        "nginx",
        "cat",
        "nc",
        "tar",
        "curl",
        "runc:[2:INIT]",
    ),
    *(
        "systemd",
        "pip",
        "vi",
        "grep",
        "ollama",
        "dpkg",
        "crontab",
        "find",
        "insmod",
        "mount",
        "wget",
    ),
)
ARGS = (
    *((), ("-c", "id"), ("-e", "/bin/sh"), ("-o", "/tmp/x"), ("-r", "BEGIN RSA PRIVATE", "/")),
    *(("-m", "pip", "install", "x"), ("install", "x"), ("/dev/shm/x",), ("-name", "id_rsa")),
)
ADDRESSES = (
    *("169.254.169.254:80", "10.0.0.1:443", "8.8.8.8:53", "127.0.0.1:8080", "[2001:db8::1]:443"),
    *("[::ffff:9.9.9.9]:22", "/var/run/docker.sock", "@abstract", "1.2.3.4:1194"),
)
CLIENTS = ("", "10.0.0.9", "127.0.0.1", "192.168.1.5")
IMAGES = (
    "acme/agent:3",
    "docker.io/calico/node:1",
    "falcosecurity/falco:0.44",
    "registry.k8s.io/kube-proxy:1",
)
FLAGS = (0, 1, 2, 0o101, 0o1101, 0o2001, 0o200000, 3)
RESULTS = (0, 1, 2, 3, 9, -errno.ENOENT, -errno.EACCES, -errno.EINPROGRESS)
SOCKETS = (
    2 << 16 | 1 << 8 | 6,
    2 << 16 | 2 << 8 | 17,
    10 << 16 | 1 << 8 | 6,
    1 << 16 | 1 << 8,
    17 << 16 | 3 << 8,
)
CALLS = {
    Class.EXEC: ("execve", "execveat", ""),
    Class.EXEC_FAILED: ("execve", "execveat"),
    Class.OPEN: ("open", "openat", "openat2", "creat", ""),
    Class.RENAME: ("rename", "renameat2"),
    Class.UNLINK: ("unlink", "unlinkat"),
    Class.LINK: ("link", "linkat"),
    Class.SYMLINK: ("symlink", "symlinkat"),
    Class.CHMOD: ("chmod", "fchmod", "fchmodat"),
    Class.CONNECT: ("connect", ""),
    Class.ACCEPT: ("accept", "accept4"),
    Class.LISTEN: ("listen",),
    Class.SEND: ("sendto", "sendmsg"),
    Class.SOCKET: ("socket",),
    Class.DUP: ("dup", "dup2", "dup3"),
    Class.PTRACE: ("ptrace",),
    Class.SETID: ("setuid", "setgid", "setresuid"),
    Class.SETNS: ("setns",),
    Class.UNSHARE: ("unshare",),
    Class.BPF: ("bpf",),
    Class.MODULE: ("finit_module", "init_module"),
    Class.MOUNT: ("mount",),
    Class.FORK: ("",),
    Class.EXIT: ("",),
}


def random_scene(seed: int, events: int = 200, processes: int = 25) -> Scene:
    rng = random.Random(seed)
    scene = Scene()
    pods = ("", "kube-system", "prod")
    slots = [0, scene.container(state="pending"), scene.container(state="unknown")]
    for image in IMAGES:
        slots.append(
            scene.container(
                image=image, privileged=rng.random() < 0.5, namespace=rng.choice(pods) or None
            )
        )
    images = [0]
    for _ in range(processes):
        name = rng.choice(NAMES)
        parent = rng.choice(images)
        images.append(
            scene.process(
                name,
                **({"parent": parent} if parent and rng.random() < 0.8 else {}),
                workload=rng.choice(slots),
                argv=(name, *rng.choice(ARGS)),
                exepath=rng.choice(("/usr/bin/", "/dev/shm/", "/tmp/")) + name,
                cwd=rng.choice(("/", "/dev/shm", "/root")),
                tty=rng.choice((0, 34816)),
                euid=rng.choice((0, 1000, 33)),
                egid=rng.choice((0, 1000)),
                vpid=rng.choice((1, 77)),
                env_names=rng.choice(((), ("PATH", "HTTP_PROXY"), ("GLIBC_TUNABLES",))),
                cap_effective=rng.choice((0, 1 << 21, 1 << 16 | 1 << 1)),
                cap_permitted=rng.choice((0, 1 << 21)),
                marks=rng.choice((0, int(ProcMark.UPPER), int(ProcMark.MEMFD))),
                started=rng.choice((10**9, 99_999_000_000)),
            )
        )
    for _ in range(events):
        add_event(scene, rng, images)
    return scene


def add_event(scene: Scene, rng: random.Random, images: list[int]) -> None:
    cls = rng.choice(list(CALLS))
    image = rng.choice(images)
    columns: dict[str, int] = {"ret": rng.choice(RESULTS)}
    if cls == Class.EXEC_FAILED:
        columns["ret"] = rng.choice((-errno.ENOENT, -errno.EACCES, -errno.ENOEXEC))
    obj = obj2 = 0
    name = ""
    if cls in (Class.CONNECT, Class.ACCEPT, Class.LISTEN, Class.SEND, Class.DUP, Class.SOCKET):
        columns["flags"] = rng.choice(SOCKETS)
        if cls != Class.SOCKET:
            obj = scene.address(rng.choice(ADDRESSES))
            obj2 = scene.address(rng.choice(CLIENTS))
            columns["port"] = rng.choice((0, 53, 40000, 8080))
            name = rng.choice(("", "", "kubernetes.default.svc.cluster.local", "webhook.site"))
    elif cls in (Class.RENAME, Class.LINK, Class.SYMLINK, Class.MOUNT):
        obj, obj2 = scene.string(rng.choice(PATHS)), scene.string(rng.choice(PATHS))
    elif cls not in (Class.FORK, Class.EXIT, Class.PTRACE, Class.SETID, Class.BPF):
        obj = scene.string(rng.choice(PATHS))
        if cls == Class.OPEN:
            obj2 = scene.string(rng.choice(RAW))
            columns["marks"] = rng.choice(
                (0, 0, int(Mark.DIR), int(Mark.ATTEMPT), int(Mark.DEVICE))
            )
            columns["flags"] = rng.choice(FLAGS)
        else:
            columns["flags"] = rng.choice((0, 0o4755, 0o755, 0x10000000))
    if cls in (Class.PTRACE, Class.SETID, Class.BPF):
        columns["num"] = rng.choice((0, 5, 16, 1000, 0x4206))
    scene.event(cls, image, call=rng.choice(CALLS[cls]), obj=obj, obj2=obj2, name=name, **columns)
