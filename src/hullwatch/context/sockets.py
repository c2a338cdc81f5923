"""The runtimes' sockets of this host: opened when first needed, asked until one knows."""

from pathlib import Path
from typing import TYPE_CHECKING

from hullwatch.context.disk import Roots
from hullwatch.context.facts import Facts

if TYPE_CHECKING:
    from hullwatch.context.cri import RuntimeSocket

__all__ = ["Sockets"]


class Sockets:
    """For one thread. The HTTP/2 client is imported only when a socket is there."""

    def __init__(self, roots: Roots, timeout: float = 2.0) -> None:
        self._roots = roots
        self._timeout = timeout
        self._open: dict[str, RuntimeSocket] = {}

    def present(self, address: str | None = None) -> list[str]:
        """Paths that exist, the given one first."""
        paths = ([address.removeprefix("unix://")] if address else []) + list(self._roots.sockets)
        return [path for path in dict.fromkeys(paths) if Path(path).exists()]

    def _at(self, path: str) -> "RuntimeSocket":
        if path not in self._open:
            from hullwatch.context.cri import RuntimeSocket

            if len(self._open) >= 16:
                self.close()
            self._open[path] = RuntimeSocket(path, self._roots.socket_owners, self._timeout)
        return self._open[path]

    def ask(self, facts: Facts, address: str | None) -> tuple[Facts | None, str]:
        """(what a socket adds, '') or (None, why none does)."""
        problem = "no runtime socket"
        for path in self.present(address):
            from hullwatch.context.grpc_call import CallError

            try:
                found = self._at(path).everything(facts)
            except CallError as error:
                problem = str(error)
                continue
            if found is not None:
                return found, ""
            problem = f"{path}: does not know it"
        return None, problem

    def exit_code(self, container_id: str) -> int | None:
        for path in list(self._open):
            from hullwatch.context.grpc_call import CallError

            try:
                code = self._at(path).exit_code(container_id)
            except CallError:
                continue
            if code is not None:
                return code
        return None

    def close(self) -> None:
        for channel in self._open.values():
            channel.close()
        self._open.clear()
