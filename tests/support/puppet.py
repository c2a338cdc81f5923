"""A container that does what it is told: each piece of code in a process of its own.

What comes back is what the code put into `said`, or the name of the error it ended with (EPERM).
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from support.bundles import Mount
from support.images import Image
from support.runc import Container, Runc
from support.scratch import poll

__all__ = ["Puppet"]

_DRIVER = """
import ctypes, errno, json, os, signal, socket, subprocess, sys, threading, time
def reply(link, value):
    link.sendall(json.dumps(value).encode())
def run(code):
    names = dict(globals())
    try:
        exec(code, names)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except BaseException as error:
        return repr(error)
    return names.get("said", "done")
server = socket.socket(socket.AF_UNIX)
server.bind("/puppet/sock")
server.listen(16)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    link, _ = server.accept()
    code = b""
    while piece := link.recv(65536):
        code += piece
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reply(link, run(code.decode()))
        os._exit(0)
    link.close()
"""


class Puppet:
    """options: of Runc.start."""

    def __init__(self, runc: Runc, image: Image, folder: Path, name: str, **options: Any) -> None:
        self.folder = folder / f"puppet-{name}"
        self.folder.mkdir()
        mounts = [Mount(self.folder, "/puppet", writable=True), *options.pop("mounts", ())]
        self.container: Container = runc.start(
            ["python3", "-u", "-c", _DRIVER], name=name, image=image, mounts=mounts, **options
        )
        self.container.wait_for_output("ready", 60)

    @property
    def rootfs(self) -> Path:
        return self.container.bundle.rootfs

    def begin(self, code: str) -> socket.socket:
        """Done meanwhile; `end` gives what it said."""
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(120)
        link.connect(str(self.folder / "sock"))
        link.sendall(code.encode())
        link.shutdown(socket.SHUT_WR)
        return link

    def end(self, link: socket.socket) -> Any:
        """None: it was killed."""
        with link:
            data = b""
            while piece := link.recv(65536):
                data += piece
        return json.loads(data) if data else None

    def do(self, code: str) -> Any:
        return self.end(self.begin(code))

    def until(self, code: str, said: Any) -> None:
        """Do it again and again until that is what comes of it."""
        poll(lambda: self.do(code) == said, seconds=60, waiting_for=f"{said!r} of {code!r}")
