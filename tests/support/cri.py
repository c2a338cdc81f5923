"""A client of the Kubernetes Container Runtime Interface, in the part that a pod needs.

Field numbers are those of k8s.io/cri-api runtime/v1/api.proto.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Else it starts threads in each child that is forked, which abort where they meet its closed
# descriptors before the exec (grpcio 1.85: one start in sixteen, under load).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from support.protobuf import decode, encode, string_map, text, texts

__all__ = ["ContainerState", "Cri", "CriError", "ExecResult", "SandboxConfig"]

_STATES = ("created", "running", "exited", "unknown")
_POD, _NODE = 0, 2  # NamespaceMode


class CriError(RuntimeError):
    """The runtime refused a call; the message holds the call and its words."""


@dataclass(frozen=True)
class SandboxConfig:
    """PodSandboxConfig: also part of every CreateContainer."""

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    log_directory: Path
    cgroup_parent: str
    host_network: bool = False
    privileged: bool = False

    def message(self) -> dict[int, Any]:
        security = {1: self._namespaces(), 6: self.privileged}
        return {
            1: {1: self.name, 2: self.uid, 3: self.namespace},
            2: "" if self.host_network else self.name,
            3: str(self.log_directory),
            6: string_map(self.labels),
            7: string_map(self.annotations),
            8: {1: self.cgroup_parent, 2: security},
        }

    def _namespaces(self) -> dict[int, int]:
        # pid: each container its own, as kubelet asks by default.
        return {1: _NODE if self.host_network else _POD, 2: 1}


@dataclass(frozen=True)
class ContainerState:
    """ContainerStatus, and the pid from containerd's verbose info (0 once it is gone)."""

    id: str
    name: str
    state: str
    exit_code: int
    image: str
    image_ref: str
    pid: int


@dataclass(frozen=True)
class ExecResult:
    """ExecSyncResponse."""

    stdout: str
    stderr: str
    status: int


class Cri:
    """The calls, each one function. Raises CriError."""

    def __init__(self, address: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{address}")

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def _call(
        self, method: str, request: Mapping[int, Any], service: str = "Runtime", seconds: float = 90
    ) -> dict[int, list[Any]]:
        path = f"/runtime.v1.{service}Service/{method}"
        try:
            return decode(self._channel.unary_unary(path)(encode(request), timeout=seconds))
        except grpc.RpcError as error:
            raise CriError(f"{method}: {error.details()}") from None

    def not_ready(self) -> str | None:
        """What Status complains of, if anything: the runtime or the pod network."""
        for data in decode(self._call("Status", {}, seconds=5)[1][0]).get(1, []):
            condition = decode(data)
            if not condition.get(2, [0])[0]:
                return f"{text(condition, 1)}: {text(condition, 3)} {text(condition, 4)}"
        return None

    def image_id(self, reference: str) -> str | None:
        """The id (config digest) of an image; None if the runtime does not have it."""
        answer = self._call("ImageStatus", {1: {1: reference}}, service="Image")
        return text(decode(answer[1][0]), 1) if 1 in answer else None

    def run_sandbox(self, config: SandboxConfig) -> str:
        """RunPodSandbox: the sandbox's id."""
        return text(self._call("RunPodSandbox", {1: config.message()}), 1)

    def create_container(
        self,
        sandbox_id: str,
        sandbox: SandboxConfig,
        *,
        name: str,
        image: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        mounts: Sequence[tuple[Path, str, bool]],
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
        tty: bool = False,
        privileged: bool = False,
    ) -> str:
        """CreateContainer: the container's id. A mount is (host path, path inside, writable)."""
        config = {
            1: {1: name},
            2: {1: image},
            3: list(argv),
            6: [{1: key, 2: value} for key, value in env.items()],
            7: [{1: inside, 2: str(host), 3: not write} for host, inside, write in mounts],
            9: string_map(labels),
            10: string_map(annotations),
            11: f"{name}/0.log",
            14: tty,
            15: {2: {2: privileged, 3: sandbox._namespaces()}},
        }
        request = {1: sandbox_id, 2: config, 3: sandbox.message()}
        return text(self._call("CreateContainer", request), 1)

    def start_container(self, container_id: str) -> None:
        """StartContainer."""
        self._call("StartContainer", {1: container_id})

    def stop_container(self, container_id: str, seconds: int = 0) -> None:
        """StopContainer: SIGTERM, and SIGKILL after `seconds`."""
        self._call("StopContainer", {1: container_id, 2: seconds})

    def remove_container(self, container_id: str) -> None:
        """RemoveContainer."""
        self._call("RemoveContainer", {1: container_id})

    def container_state(self, container_id: str) -> ContainerState:
        """ContainerStatus."""
        answer = self._call("ContainerStatus", {1: container_id, 2: True})
        status = decode(answer[1][0])
        info: dict[str, Any] = {}
        for data in answer.get(2, []):
            entry = decode(data)
            if text(entry, 1) == "info":
                info = json.loads(text(entry, 2))
        return ContainerState(
            id=text(status, 1),
            name=text(decode(status[2][0]), 1),
            state=_STATES[status.get(3, [0])[0]],
            exit_code=status.get(7, [0])[0],
            image=text(decode(status[8][0]), 1) if 8 in status else "",
            image_ref=text(status, 9),
            pid=int(info.get("pid", 0)),
        )

    def list_containers(self) -> list[str]:
        """ListContainers: ids, running or not."""
        return [text(decode(data), 1) for data in self._call("ListContainers", {}).get(1, [])]

    def list_sandboxes(self) -> list[str]:
        """ListPodSandbox: ids, ready or not."""
        return [text(decode(data), 1) for data in self._call("ListPodSandbox", {}).get(1, [])]

    def exec_sync(self, container_id: str, argv: Sequence[str], seconds: int = 60) -> ExecResult:
        """ExecSync: run a further process in a container and wait."""
        answer = self._call("ExecSync", {1: container_id, 2: list(argv), 3: seconds})
        stdout, stderr = "".join(texts(answer, 1)), "".join(texts(answer, 2))
        return ExecResult(stdout, stderr, answer.get(3, [0])[0])

    def stop_sandbox(self, sandbox_id: str) -> None:
        """StopPodSandbox: ends its containers and takes its network down."""
        self._call("StopPodSandbox", {1: sandbox_id})

    def remove_sandbox(self, sandbox_id: str) -> None:
        """RemovePodSandbox, and its containers with it."""
        self._call("RemovePodSandbox", {1: sandbox_id})
