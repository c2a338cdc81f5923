"""The names of the fields that Falco documents for syscalls, by class: `falco --list=syscall`.

After the "supported fields" page of Falco 0.44's documentation and that of the container plugin; of
older releases, what rules still use. A name in brackets takes an argument.
"""

from __future__ import annotations

from typing import NamedTuple

from hullwatch.detect.errors import RuleError
from hullwatch.detect.fields import resolve
from hullwatch.detect.fields.unavailable import why_unavailable
from hullwatch.detect.language.ast import FieldRef

__all__ = ["DOCUMENTED", "Answer", "answers", "table"]

DOCUMENTED: dict[str, tuple[str, ...]] = {
    kind: tuple(names.split())
    for kind, names in (
        (
            "evt",
            "evt.num evt.time evt.time.s evt.time.iso8601 evt.datetime evt.datetime.s evt.rawtime "
            "evt.rawtime.s evt.rawtime.ns evt.reltime evt.reltime.s evt.reltime.ns evt.pluginname "
            "evt.plugininfo evt.source evt.is_async evt.asynctype evt.hostname evt.latency "
            "evt.latency.s evt.latency.ns evt.latency.human evt.deltatime evt.deltatime.s "
            "evt.deltatime.ns evt.outputtime evt.dir evt.type evt.type.is[open] syscall.type "
            "evt.category evt.cpu evt.args evt.arg[flags] evt.rawarg[flags] evt.info evt.buffer "
            "evt.buflen evt.res evt.rawres evt.failed evt.is_io evt.is_io_read evt.is_io_write "
            "evt.io_dir evt.is_wait evt.wait_latency evt.is_syslog evt.count evt.count.error "
            "evt.count.error.file evt.count.error.net evt.count.error.memory "
            "evt.count.error.other evt.count.exit evt.around[1] evt.abspath evt.abspath.src "
            "evt.abspath.dst evt.is_open_read evt.is_open_write evt.is_open_exec "
            "evt.is_open_create",
        ),
        (
            "proc",
            "proc.exe proc.pexe proc.aexe proc.aexe[2] proc.exepath proc.pexepath proc.aexepath "
            "proc.aexepath[2] proc.name proc.pname proc.aname proc.aname[2] proc.args proc.aargs "
            "proc.cmdline proc.pcmdline proc.acmdline proc.acmdline[2] proc.cmdnargs "
            "proc.cmdlenargs proc.exeline proc.env proc.env[HOME] proc.aenv proc.aenv[2] proc.cwd "
            "proc.loginshellid proc.tty proc.pid proc.ppid proc.apid proc.apid[2] proc.vpid "
            "proc.pvpid proc.sid proc.sname proc.sid.exe proc.sid.exepath proc.pgid "
            "proc.pgid.name proc.pgid.exe proc.pgid.exepath proc.vpgid proc.vpgid.name "
            "proc.vpgid.exe proc.vpgid.exepath proc.duration proc.ppid.duration proc.pid.ts "
            "proc.ppid.ts proc.is_exe_writable proc.is_exe_upper_layer proc.is_exe_lower_layer "
            "proc.is_exe_from_memfd proc.is_sid_leader proc.is_pgid_leader proc.is_vpgid_leader "
            "proc.exe_ino proc.exe_ino.ctime proc.exe_ino.mtime "
            "proc.exe_ino.ctime_duration_proc_start proc.exe_ino.ctime_duration_pidns_start "
            "proc.pidns_init_start_ts proc.is_container_healthcheck "
            "proc.is_container_liveness_probe proc.is_container_readiness_probe proc.fdopencount "
            "proc.fdlimit proc.fdusage proc.vmsize proc.vmrss proc.vmswap proc.nthreads "
            "proc.nchilds proc.stdin.type proc.stdout.type proc.stderr.type proc.stdin.name "
            "proc.stdout.name proc.stderr.name",
        ),
        (
            "thread",
            "thread.cap_permitted thread.cap_inheritable thread.cap_effective thread.pfmajor "
            "thread.pfminor thread.tid thread.ismain thread.vtid thread.nametid thread.exectime "
            "thread.totexectime thread.cgroups thread.cgroup[cpu] thread.cpu thread.cpu.user "
            "thread.cpu.system thread.vmsize thread.vmrss",
        ),
        (
            "user, group",
            "user.uid user.name user.homedir user.shell user.loginuid user.loginname group.gid "
            "group.name",
        ),
        (
            "container",
            "container.id container.full_id container.name container.image container.image.id "
            "container.type container.privileged container.mounts container.mount[0] "
            "container.mount.source[0] container.mount.dest[0] container.mount.mode[0] "
            "container.mount.rdwr[0] container.mount.propagation[0] container.image.repository "
            "container.image.tag container.image.digest container.healthcheck "
            "container.liveness_probe container.readiness_probe container.start_ts "
            "container.duration container.ip container.cni.json container.host_pid "
            "container.host_network container.host_ipc container.label[a] container.labels "
            "container.is_pod_sandbox container.created_ts",
        ),
        (
            "fd",
            "fd.num fd.type fd.typechar fd.name fd.directory fd.filename fd.ip fd.cip fd.sip "
            "fd.lip fd.rip fd.port fd.cport fd.sport fd.lport fd.rport fd.l4proto fd.sockfamily "
            "fd.is_server fd.uid fd.containername fd.containerdirectory fd.proto fd.cproto "
            "fd.sproto fd.lproto fd.rproto fd.net fd.cnet fd.snet fd.lnet fd.rnet fd.connected "
            "fd.name_changed fd.cip.name fd.sip.name fd.lip.name fd.rip.name fd.dev fd.dev.major "
            "fd.dev.minor fd.ino fd.nameraw fd.types fd.types[0] fd.is_upper_layer "
            "fd.is_lower_layer",
        ),
        (
            "fs.path",
            "fs.path.name fs.path.nameraw fs.path.source fs.path.sourceraw fs.path.target "
            "fs.path.targetraw",
        ),
        (
            "syslog, fdlist",
            "syslog.facility.str syslog.facility syslog.severity.str syslog.severity "
            "syslog.message fdlist.nums fdlist.names fdlist.cips fdlist.sips fdlist.cports "
            "fdlist.sports",
        ),
        (
            "k8s",
            "k8s.ns.name k8s.ns.id k8s.ns.label[a] k8s.ns.labels k8s.pod.name k8s.pod.id "
            "k8s.pod.uid k8s.pod.sandbox_id k8s.pod.full_sandbox_id k8s.pod.label[app] "
            "k8s.pod.label.app k8s.pod.labels k8s.pod.ip k8s.pod.cni.json k8s.rc.name k8s.rc.id "
            "k8s.rc.label[a] k8s.rc.labels k8s.svc.name k8s.svc.id k8s.svc.label[a] "
            "k8s.svc.labels k8s.rs.name k8s.rs.id k8s.rs.label[a] k8s.rs.labels "
            "k8s.deployment.name k8s.deployment.id k8s.deployment.label[a] k8s.deployment.labels",
        ),
        (
            "plugins",
            "k8smeta.pod.name k8smeta.ns.name ka.verb ka.target.name ct.name ct.user json.value "
            "jevt.value mesos.task.name",
        ),
    )
}


class Answer(NamedTuple):
    """error: what a rule with the field is told; '' if it is supported. reason: its last part."""

    name: str
    error: str
    reason: str


def _asked(name: str) -> Answer:
    head, bracket, arg = name.partition("[")
    try:
        resolve(FieldRef(head, arg.rstrip("]") if bracket else None))
    except RuleError as error:
        return Answer(name, str(error), why_unavailable(head) or error.message)
    return Answer(name, "", "")


def answers() -> dict[str, list[Answer]]:
    """Every documented field with what becomes of it, by class."""
    return {kind: [_asked(name) for name in names] for kind, names in DOCUMENTED.items()}


def table() -> str:
    """The table of docs/falco.md."""
    lines = ["| class | here | not here, and why |", "| --- | --- | --- |"]
    for kind, found in answers().items():
        here = " ".join(f"`{one.name}`" for one in found if not one.error)
        reasons: dict[str, list[str]] = {}
        for one in found:
            if one.error:
                reasons.setdefault(one.reason, []).append(f"`{one.name}`")
        missing = "; ".join(f"{' '.join(names)}: {why}" for why, names in reasons.items())
        lines.append(f"| {kind} | {here} | {missing} |")
    every = [one for found in answers().values() for one in found]
    supported = sum(not one.error for one in every)
    total = f"{supported} of {len(every)} documented names are supported"
    return "\n".join((*lines, "", f"{total}, {len(every) - supported} are refused."))
