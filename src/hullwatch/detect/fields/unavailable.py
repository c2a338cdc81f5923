"""Fields that Falco documents and Hullwatch does not have, with the reason.

After the field reference of Falco 0.44 (falco --list=syscall). A longer prefix wins.
"""

from __future__ import annotations

__all__ = ["why_unavailable"]

_PAYLOAD = "the content of reads and writes is never recorded"
_NO_IO = "reads and writes are not events"
_PROBES = "health checks and probes are not told apart"
_API = "the API server is not asked"
_TIMING = "events are not paired in time"
_STATE = "the sensor does not keep it"

_REASONS: dict[str, str] = {
    "evt.buffer": _PAYLOAD,
    "evt.buflen": _PAYLOAD,
    "evt.rawbuffer": _PAYLOAD,
    "evt.is_io": _NO_IO,
    "evt.is_io_read": _NO_IO,
    "evt.is_io_write": _NO_IO,
    "evt.io_dir": _NO_IO,
    "evt.is_syslog": _NO_IO,
    "evt.is_wait": _TIMING,
    "evt.wait_latency": _TIMING,
    "evt.latency": _TIMING,
    "evt.deltatime": _TIMING,
    "evt.reltime": "there is no beginning to count from; use evt.rawtime",
    "evt.outputtime": "use evt.time",
    "evt.around": _TIMING,
    "evt.cpu": _STATE,
    "evt.is_open_exec": "the mode of a created file is not recorded",
    "evt.asynctype": "there are no such events",
    "evt.pluginname": "there are no plugin events",
    "evt.plugininfo": "there are no plugin events",
    "evt.aggregated": _STATE,
    "evtin": _TIMING,
    "span": "tracers are not supported",
    "fdlist": "poll and select are not events",
    "fd.uid": _STATE,
    "fd.types": _STATE,
    "fd.proto": "use fd.l4proto and ports",
    "fd.cproto": "use fd.cport",
    "fd.sproto": "use fd.sport",
    "fd.lproto": "use fd.lport",
    "fd.rproto": "use fd.rport",
    "fd.mount": _STATE,
    "proc.fd": _STATE,
    "proc.stdin": _STATE,
    "proc.stdout": _STATE,
    "proc.stderr": _STATE,
    "proc.env": "values of environment variables are never recorded",
    "proc.aenv": "values of environment variables are never recorded",
    "proc.nchilds": _STATE,
    "proc.nthreads": _STATE,
    "proc.fdopencount": _STATE,
    "proc.fdlimit": _STATE,
    "proc.fdusage": _STATE,
    "proc.vmsize": _STATE,
    "proc.vmrss": _STATE,
    "proc.vmswap": _STATE,
    "proc.cpu": _STATE,
    "proc.is_container_healthcheck": _PROBES,
    "proc.is_container_liveness_probe": _PROBES,
    "proc.is_container_readiness_probe": _PROBES,
    "proc.is_exe_lower_layer": "only the writable layer is told apart",
    "proc.exe_ino.ctime_duration_pidns_start": "the start of a pid namespace is not kept",
    "proc.pidns_init_start_ts": "the start of a pid namespace is not kept",
    "thread.exectime": _STATE,
    "thread.totexectime": _STATE,
    "thread.cgroups": "use container.* and k8s.*",
    "thread.pfmajor": _STATE,
    "thread.pfminor": _STATE,
    "thread.cgroup": "use container.* and k8s.*",
    "thread.vtid": _STATE,
    "thread.cpu": _STATE,
    "thread.vmsize": _STATE,
    "thread.vmrss": _STATE,
    "thread.nametid": "use proc.name and thread.tid",
    "container.mount": "mounts of containers are not kept",
    "container.mounts": "mounts of containers are not kept",
    "container.healthcheck": _PROBES,
    "container.liveness_probe": _PROBES,
    "container.readiness_probe": _PROBES,
    "container.ip": "addresses of containers are not kept",
    "container.cni.json": "addresses of containers are not kept",
    "container.created_ts": "use container.start_ts",
    "k8s.rc": _API,
    "k8s.rs": _API,
    "k8s.svc": _API,
    "k8s.deployment": _API,
    "k8s.ns.id": _API,
    "k8s.ns.labels": _API,
    "k8s.ns.label": _API,
    "k8s.pod.ip": "addresses of pods are not kept",
    "k8s.pod.cni.json": "addresses of pods are not kept",
    "k8smeta": "the k8smeta plugin is not built in",
    "ka": "only the source 'syscall' is supported",
    "ct": "only the source 'syscall' is supported",
    "json": "only the source 'syscall' is supported",
    "jevt": "only the source 'syscall' is supported",
    "syslog": "syslog is not parsed",
    "mesos": "Mesos is not supported",
}


def why_unavailable(name: str) -> str | None:
    """The reason, or None when the name is not one of Falco's."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if (found := _REASONS.get(".".join(parts[:count]))) is not None:
            return found
    return None
