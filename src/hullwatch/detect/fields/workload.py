"""container.* and k8s.*: what is known of the container. All of it is unknown while pending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hullwatch.context.workload import Workload
from hullwatch.detect.fields.field import Field, Type, Where, each, of_row, of_workload
from hullwatch.detect.row import Env, Row

__all__ = ["FIELDS", "container_id"]

S, N, B = Type.STRING, Type.INT, Type.BOOL


def container_id(workload: Workload) -> str:
    """'host', the id's first 12 characters as Falco, or '<NA>'.

    A workload that could not be made out is not the host: rules on `container.id != host`
    hold for it, so that giving up on metadata never hides a container.
    """
    if workload.state == "host":
        return "host"
    return (workload.container_id or "<NA>")[:12]


def _or_host(get: Callable[[Workload], Any]) -> Callable[[Workload], Any]:
    return lambda w: "host" if w.state == "host" else get(w) or None


def _key(name: str, table: Callable[[Workload], dict[str, str]], doc: str) -> Field:
    def read(workload: Workload, env: Env, arg: str) -> str | None:
        return table(workload).get(arg)

    return Field(name, S, doc, each(Where.WORKLOAD), workload=read, arg="key")


def _all(table: Callable[[Workload], dict[str, str]]) -> Callable[[Workload], str | None]:
    return lambda w: ",".join(f"{k}:{v}" for k, v in sorted(table(w).items())) or None


def _age(row: Row, env: Env, arg: Any) -> int | None:
    begun = row.workload.start_ts
    return max(row.ts + env.wall_offset - begun, 0) if begun else None


def _labels(workload: Workload) -> dict[str, str]:
    return workload.labels


def _pod_labels(workload: Workload) -> dict[str, str]:
    return workload.pod_labels


def _shares(namespace: str) -> Callable[[Workload], bool | None]:
    return lambda w: None if w.host_namespaces is None else namespace in w.host_namespaces


FIELDS: tuple[Field, ...] = (
    of_workload("container.id", S, container_id, "container id (12 characters), 'host' outside"),
    of_workload("container.full_id", S, _or_host(lambda w: w.container_id), "whole container id"),
    of_workload("container.name", S, _or_host(lambda w: w.name), "container name"),
    of_workload("container.type", S, _or_host(lambda w: w.runtime), "container runtime"),
    of_workload("container.image", S, lambda w: w.image or None, "image reference"),
    of_workload(
        "container.image.repository", S, lambda w: w.image_repository or None, "image without tag"
    ),
    of_workload("container.image.tag", S, lambda w: w.image_tag or None, "image tag"),
    of_workload("container.image.digest", S, lambda w: w.image_digest or None, "image digest"),
    of_workload("container.image.id", S, lambda w: w.image_id or None, "image id"),
    of_workload("container.privileged", B, lambda w: w.privileged, "runs privileged"),
    of_workload("container.start_ts", N, lambda w: w.start_ts or None, "start, unix ns"),
    of_row("container.duration", N, _age, "age of the container, ns"),
    _key("container.label", _labels, "one label of the container"),
    of_workload("container.labels", S, _all(_labels), "all labels of the container"),
    of_workload("container.host_pid", B, _shares("pid"), "shares the host's pid namespace"),
    of_workload("container.host_network", B, _shares("net"), "shares the host's network"),
    of_workload("container.host_ipc", B, _shares("ipc"), "shares the host's ipc namespace"),
    of_workload("container.is_pod_sandbox", B, lambda w: w.role == "sandbox", "a pod's sandbox"),
    of_workload("k8s.ns.name", S, lambda w: w.namespace or None, "Kubernetes namespace"),
    of_workload("k8s.pod.name", S, lambda w: w.pod or None, "pod name"),
    of_workload("k8s.pod.uid", S, lambda w: w.pod_uid or None, "pod uid"),
    of_workload("k8s.pod.id", S, lambda w: w.pod_uid or None, "same, by its old name"),
    of_workload(
        "k8s.pod.sandbox_id", S, lambda w: (w.sandbox_id or "")[:12] or None, "sandbox id, short"
    ),
    of_workload("k8s.pod.full_sandbox_id", S, lambda w: w.sandbox_id or None, "sandbox id"),
    _key("k8s.pod.label", _pod_labels, "one label of the pod"),
    of_workload("k8s.pod.labels", S, _all(_pod_labels), "all labels of the pod"),
    of_workload("hw.container.role", S, lambda w: w.role or None, "main, init, sidecar, sandbox"),
    of_workload("hw.container.state", S, lambda w: w.state, "host, resolved or unknown"),
)
