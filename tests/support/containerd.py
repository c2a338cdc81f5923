"""Debian's containerd, started for the tests with its own root, state and socket.

Images come from support.images through `ctr images import`; pods are made over CRI as kubelet makes
them: same labels, annotations and cgroup parent. Nothing of a containerd that the machine may run
is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import images
from support.cri import ContainerState, Cri, CriError, ExecResult, SandboxConfig
from support.images import Image
from support.runc import ENVIRONMENT, cgroup2_root
from support.scratch import poll, remove_tree, session

__all__ = ["Containerd", "ContainerdError", "Pod", "PodContainer", "Spec", "end_all"]

NAMESPACE = "k8s.io"

# Containers get no rlimits (see spec_without_rlimits), no AppArmor profile, and no oom score below
# this process's own: a virtual machine's root may lack what these take.
_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
oom_score = 0
[grpc]
  address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_bin}"
    conf_dir = "{cni_conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{spec}"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{runc_root}"
"""
# Pods get an address of TEST-NET-2 (RFC 5737) that only this host can reach: no route, no NAT.
_SUBNET = "198.51.100.0/24"
_CNI_BIN = Path("/usr/lib/cni")


class ContainerdError(RuntimeError):
    """containerd or ctr failed; the message ends with the last lines of the log."""


@dataclass(frozen=True)
class Spec:
    """A container of a pod, as a manifest would give it. `mounts`: (host, inside, writable)."""

    name: str
    argv: Sequence[str]
    image: Image | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[tuple[Path, str, bool]] = ()
    tty: bool = False
    privileged: bool = False


class PodContainer:
    """A container of a pod that has been started."""

    def __init__(self, containerd: Containerd, pod: Pod, spec: Spec, container_id: str) -> None:
        self._cri = containerd.cri
        self.pod = pod
        self.spec = spec
        self.id = container_id
        self.pid = 0
        """On the host; 0 if it was over before it could be asked."""

    @property
    def name(self) -> str:
        """Its name in the pod."""
        return self.spec.name

    @property
    def log(self) -> str:
        """stdout and stderr so far, without the stamps of CRI's log format."""
        path = self.pod.config.log_directory / self.name / "0.log"
        if not path.exists():
            return ""
        lines = path.read_text(errors="replace").splitlines()
        return "".join(line.split(" ", 3)[3] + "\n" for line in lines if line.count(" ") >= 3)

    def state(self) -> ContainerState:
        """What the runtime says."""
        return self._cri.container_state(self.id)

    def cgroups(self) -> dict[str, str]:
        """Controller list ("" for cgroup v2) → path."""
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}

    def exec(self, argv: Sequence[str]) -> ExecResult:
        """Run a further process inside, as `kubectl exec` does."""
        return self._cri.exec_sync(self.id, argv)

    def wait(self, seconds: float = 60) -> ContainerState:
        """Wait until it has ended."""

        def ended() -> ContainerState | None:
            state = self.state()
            return state if state.state == "exited" else None

        return poll(ended, seconds=seconds, waiting_for=f"container {self.name} to end")


@dataclass
class Pod:
    """A running pod. `containers` holds init, main and sidecar containers by name."""

    id: str
    config: SandboxConfig
    containers: dict[str, PodContainer] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PodContainer:
        return self.containers[name]


class Containerd:
    """Starts a containerd; as a context manager ends it and everything in it."""

    def __init__(self) -> None:
        self.folder = session() / "containerd"
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.address = self.folder / "containerd.sock"
        self.runc_root = self.folder / "runc"
        self._log = self.folder / "containerd.log"
        self._imported: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pods: list[Pod] = []
        self.cri = Cri(self.address)

    @property
    def task_root(self) -> Path:
        """Where shims keep bundles: TASK_ROOT/k8s.io/ID/config.json."""
        return self.state / "io.containerd.runtime.v2.task"

    def __enter__(self) -> Containerd:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        pause = images.build(images.PAUSE)
        for folder in (self.root, self.state, self.runc_root, self.folder / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        # host-local keeps leases in /var/lib/cni unless told otherwise.
        leases = {"type": "host-local", "subnet": _SUBNET, "dataDir": str(self.folder / "leases")}
        network = {
            "cniVersion": "0.4.0",
            "name": "hullwatch-test",
            "plugins": [{"type": "ptp", "ipMasq": False, "ipam": leases}],
        }
        (self.folder / "cni" / "10-test.conflist").write_text(json.dumps(network))
        spec = self.folder / "base-spec.json"
        spec.write_text(json.dumps(spec_without_rlimits()))
        config = self.folder / "config.toml"
        config.write_text(
            _CONFIG.format(
                root=self.root,
                state=self.state,
                address=self.address,
                pause=pause.reference,
                cni_bin=_CNI_BIN,
                cni_conf=self.folder / "cni",
                spec=spec,
                runc_root=self.runc_root,
            )
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**ENVIRONMENT, "HOME": "/root"},
            )
        self._wait_ready()
        self.import_image(pause)

    def _wait_ready(self) -> None:
        complaint = "no answer"

        def ready() -> bool:
            nonlocal complaint
            if self._process is None or self._process.poll() is not None:
                raise ContainerdError(f"containerd ended at start\n{self.log_tail()}")
            try:
                complaint = self.cri.not_ready() or ""
            except CriError as error:
                complaint = str(error)
            return not complaint

        try:
            poll(ready, seconds=90, waiting_for="containerd's CRI")
        except TimeoutError:
            raise ContainerdError(f"CRI not ready: {complaint}\n{self.log_tail()}") from None

    def log_tail(self, lines: int = 20) -> str:
        """The end of containerd's log, for a failure's message."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def ctr(self, *argv: str) -> str:
        """Run ctr(8) against it, in Kubernetes' namespace; its stdout."""
        command = ["ctr", "--address", str(self.address), "--namespace", NAMESPACE, *argv]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        if done.returncode:
            raise ContainerdError(f"ctr {argv[0]}: {done.stderr.strip()}\n{self.log_tail(5)}")
        return done.stdout

    def import_image(self, image: Image) -> None:
        """Import and unpack an image, and wait until CRI knows it (it learns by an event).

        pod() does so for the images that it meets; once each, as it takes a guest half a minute.
        """
        if image.reference in self._imported:
            return
        self.ctr("images", "import", str(image.archive))
        poll(
            lambda: self.cri.image_id(image.reference),
            seconds=60,
            waiting_for=f"CRI to know {image.reference}",
        )
        self._imported.add(image.reference)

    def pod(
        self,
        name: str,
        *,
        main: Spec,
        init: Spec | None = None,
        sidecar: Spec | None = None,
        image: Image | None = None,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> Pod:
        """Run a pod as kubelet would: sandbox, init container to its end, sidecar, main container.

        `image` is that of specs which name none. Raises ContainerdError if init fails.
        """
        specs = [spec for spec in (init, sidecar, main) if spec]
        uid = str(uuid.uuid4())
        config = SandboxConfig(
            name=name,
            namespace=namespace,
            uid=uid,
            labels={
                **(labels or {}),
                "io.kubernetes.pod.name": name,
                "io.kubernetes.pod.namespace": namespace,
                "io.kubernetes.pod.uid": uid,
            },
            annotations={"kubernetes.io/config.source": "api", **(annotations or {})},
            log_directory=self.folder / "pods" / f"{namespace}_{name}_{uid}",
            cgroup_parent=f"/kubepods/besteffort/pod{uid}",
            host_network=host_network,
            privileged=any(spec.privileged for spec in specs),
        )
        config.log_directory.mkdir(parents=True)
        pod = Pod(self.cri.run_sandbox(config), config)
        self._pods.append(pod)
        for spec in specs:
            container = self._start_container(pod, spec, image)
            if spec is init:
                done = container.wait()
                if done.exit_code:
                    raise ContainerdError(f"init container: {done.exit_code}\n{container.log}")
        return pod

    def _start_container(self, pod: Pod, spec: Spec, image: Image | None) -> PodContainer:
        chosen = spec.image or image
        if chosen is None:
            raise ValueError(f"container {spec.name} has no image")
        self.import_image(chosen)
        (pod.config.log_directory / spec.name).mkdir()
        container_id = self.cri.create_container(
            pod.id,
            pod.config,
            name=spec.name,
            image=chosen.reference,
            argv=spec.argv,
            env=spec.env,
            mounts=spec.mounts,
            labels={
                "io.kubernetes.container.name": spec.name,
                "io.kubernetes.pod.name": pod.config.name,
                "io.kubernetes.pod.namespace": pod.config.namespace,
                "io.kubernetes.pod.uid": pod.config.uid,
            },
            annotations={
                "io.kubernetes.container.restartCount": "0",
                "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy": "File",
            },
            tty=spec.tty,
            privileged=spec.privileged,
        )
        container = PodContainer(self, pod, spec, container_id)
        pod.containers[spec.name] = container
        self.cri.start_container(container_id)
        container.pid = container.state().pid
        return container

    def remove(self, pod: Pod) -> None:
        """Stop and remove a pod. May be called again."""
        self.cri.stop_sandbox(pod.id)
        self.cri.remove_sandbox(pod.id)
        if pod in self._pods:
            self._pods.remove(pod)

    def close(self) -> None:
        """Remove pods, end containerd and its shims, unmount and delete. May be called again."""
        for pod in list(self._pods):
            with contextlib.suppress(CriError):
                self.remove(pod)
        self.cri.close()
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        end_all(self.folder)


def spec_without_rlimits() -> dict[str, Any]:
    """containerd's default spec less `rlimits`: to set these takes CAP_SYS_RESOURCE."""
    done = subprocess.run(
        ["ctr", "oci", "spec"], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    spec: dict[str, Any] = json.loads(done.stdout)
    spec["process"].pop("rlimits", None)
    # CRI sets its own; a leftover would collide with a pod's.
    spec["linux"].pop("cgroupsPath", None)
    return spec


def end_all(folder: Path) -> None:
    """Kill all that was started for the containerd in `folder`, and delete what it left."""
    if not folder.exists():
        return
    uids = [path.name.rpartition("_")[2] for path in (folder / "pods").glob("*_*_*")]
    for container in (folder / "runc").glob("*/*"):
        command = ["runc", "--root", str(container.parent), "delete", "--force", container.name]
        subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=False)
    for pid in _processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    poll(lambda: not _processes_of(folder), seconds=20, waiting_for="containerd's processes to end")
    remove_tree(folder)
    _remove_cgroups(uids)


def _processes_of(folder: Path) -> list[int]:
    """containerd and its shims, known by paths below `folder` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            program = Path(words[0]).name
            if program.startswith("containerd") and any(w.startswith(f"{folder}/") for w in words):
                found.append(int(path.name))
    return found


def _remove_cgroups(uids: Sequence[str]) -> None:
    """Remove what is left of pods' cgroups: runc removes a container's, nobody the parents."""
    for hierarchy in {cgroup2_root(), *Path("/sys/fs/cgroup").glob("*")}:
        top = hierarchy / "kubepods" / "besteffort"
        folders = [folder for uid in uids for folder in top.glob(f"pod{uid}/*/")]
        for folder in [*folders, *(top / f"pod{uid}" for uid in uids), top, top.parent]:
            with contextlib.suppress(OSError):  # not there, or other pods are in it
                folder.rmdir()
