"""What a CRI runtime (containerd, CRI-O) says over its socket, and containerd's own API.

Message shapes: ``k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`` (v1alpha2 has the same numbers)
and containerd ``api/services/{containers,images}/v1``. Status is never asked ``verbose``, and
containerd's ``spec`` is not decoded: both carry the environment.
"""

from typing import Any

from hullwatch.context.facts import Facts, merge
from hullwatch.context.grpc_call import NOT_FOUND, UNIMPLEMENTED, CallError, Channel
from hullwatch.context.protobuf import INT, STR, STR_MAP, STRS, Malformed, Message, decode, encode
from hullwatch.context.spec import kept_annotations

__all__ = ["RuntimeSocket"]

_IMAGE_SPEC = Message({1: ("image", STR), 18: ("user_specified_image", STR)})
_CONTAINER_STATUS = Message(
    {
        1: (
            "status",
            Message(
                {
                    1: ("id", STR),
                    2: ("metadata", Message({1: ("name", STR), 2: ("attempt", INT)})),
                    3: ("state", INT),
                    4: ("created_at", INT),
                    5: ("started_at", INT),
                    6: ("finished_at", INT),
                    7: ("exit_code", INT),
                    8: ("image", _IMAGE_SPEC),
                    9: ("image_ref", STR),
                    12: ("labels", STR_MAP),
                    13: ("annotations", STR_MAP),
                    17: ("image_id", STR),
                }
            ),
        )
    }
)
_SANDBOX_STATUS = Message(
    {
        1: (
            "status",
            Message(
                {
                    1: ("id", STR),
                    2: (
                        "metadata",
                        Message(
                            {
                                1: ("name", STR),
                                2: ("uid", STR),
                                3: ("namespace", STR),
                                4: ("attempt", INT),
                            }
                        ),
                    ),
                    4: ("created_at", INT),
                    7: ("labels", STR_MAP),
                    8: ("annotations", STR_MAP),
                }
            ),
        )
    }
)
_IMAGE_STATUS = Message(
    {1: ("image", Message({1: ("id", STR), 2: ("repo_tags", STRS), 3: ("repo_digests", STRS)}))}
)
_CONTAINER = Message(
    {
        1: (
            "container",
            Message({1: ("id", STR), 2: ("labels", STR_MAP), 3: ("image", STR)}),
        )
    }
)
_IMAGE = Message(
    {1: ("image", Message({1: ("name", STR), 3: ("target", Message({2: ("digest", STR)}))}))}
)
_EXITED = 2  # CONTAINER_EXITED


class RuntimeSocket:
    """One runtime's socket. Not for several threads at once. Methods raise CallError."""

    def __init__(self, path: str, owners: tuple[int, ...] = (0,), timeout: float = 2.0) -> None:
        self._channel = Channel(path, owners, timeout)
        self._cri = "runtime.v1"
        self.path = path

    def close(self) -> None:
        self._channel.close()

    def _ask(
        self, method: str, shape: Message, request: bytes, namespace: str | None = None
    ) -> dict[str, Any] | None:
        """The decoded answer; None if the runtime does not know the thing or the method."""
        metadata = (("containerd-namespace", namespace),) if namespace else ()
        try:
            answer = self._channel.call(method, request, metadata)
        except CallError as error:
            if error.code in (NOT_FOUND, UNIMPLEMENTED):
                return None
            raise
        try:
            return decode(shape, answer)
        except Malformed as error:
            raise CallError(f"{self.path}: {method}: {error}", 2) from None

    def _ask_cri(
        self, service: str, method: str, shape: Message, request: bytes
    ) -> dict[str, Any] | None:
        found = self._ask(f"/{self._cri}.{service}/{method}", shape, request)
        if found is None and self._cri == "runtime.v1":  # not found, or older than v1?
            older = "runtime.v1alpha2"
            found = self._ask(f"/{older}.{service}/{method}", shape, request)
            if found is not None:
                self._cri = older
        return found

    def container(self, container_id: str) -> Facts | None:
        """ContainerStatus: name, image and its digest, labels, times; None if not its own."""
        answer = self._ask_cri(
            "RuntimeService", "ContainerStatus", _CONTAINER_STATUS, encode({1: container_id})
        )
        status = answer and answer["status"]
        if not status:
            return None
        labels = status["labels"]
        spec = status["image"] or {"image": "", "user_specified_image": ""}
        image = spec["user_specified_image"] or spec["image"]
        digest, image_id = _split_ref(status["image_ref"])
        if digest is None and (found := self._image_digest(status["image_ref"] or image)):
            digest = found
        return Facts(
            source=self.path,
            container_id=status["id"],
            name=(status["metadata"] or {}).get("name") or None,
            attempt=(status["metadata"] or {}).get("attempt"),
            # An id is not the reference that was given; the annotation has that.
            image=image if image and not image.startswith("sha256:") else None,
            image_digest=digest,
            image_id=status["image_id"] or image_id,
            labels=labels,
            annotations=kept_annotations(status["annotations"]),
            pod=labels.get("io.kubernetes.pod.name"),
            namespace=labels.get("io.kubernetes.pod.namespace"),
            pod_uid=labels.get("io.kubernetes.pod.uid"),
            start_ts=status["started_at"] or status["created_at"] or None,
            role=status["annotations"].get("io.hullwatch.role"),
        )

    def exit_code(self, container_id: str) -> int | None:
        """Exit code of a container that has ended; None if it has not, or is not known."""
        answer = self._ask_cri(
            "RuntimeService", "ContainerStatus", _CONTAINER_STATUS, encode({1: container_id})
        )
        status = answer and answer["status"]
        if not status or status["state"] != _EXITED:
            return None
        return int(status["exit_code"])

    def sandbox(self, sandbox_id: str) -> Facts | None:
        """PodSandboxStatus: the pod's name, uid, labels and annotations."""
        answer = self._ask_cri(
            "RuntimeService", "PodSandboxStatus", _SANDBOX_STATUS, encode({1: sandbox_id})
        )
        status = answer and answer["status"]
        if not status:
            return None
        metadata = status["metadata"] or {}
        return Facts(
            source=self.path,
            sandbox_id=status["id"],
            pod=metadata.get("name") or None,
            namespace=metadata.get("namespace") or None,
            pod_uid=metadata.get("uid") or None,
            pod_labels=status["labels"],
            annotations=kept_annotations(status["annotations"]),
        )

    def _image_digest(self, reference: str) -> str | None:
        if not reference:
            return None
        request = encode({1: encode({1: reference})})
        answer = self._ask_cri("ImageService", "ImageStatus", _IMAGE_STATUS, request)
        image = answer and answer["image"]
        for known in (image or {}).get("repo_digests", ()):
            if (digest := _split_ref(known)[0]) is not None:
                return digest
        return None

    def native(self, namespace: str, container_id: str) -> Facts | None:
        """containerd's own Containers.Get and Images.Get; None where it is not containerd."""
        answer = self._ask(
            "/containerd.services.containers.v1.Containers/Get",
            _CONTAINER,
            encode({1: container_id}),
            namespace,
        )
        container = answer and answer["container"]
        if not container:
            return None
        said = Facts(
            source=self.path,
            container_id=container_id,
            containerd_namespace=namespace,
            name=container["labels"].get("nerdctl/name"),
            image=container["image"] or None,
            labels=container["labels"],
        )
        if said.image is None:
            return said
        found = self.native_image(namespace, said.image)
        return merge(said, found) if found else said

    def native_image(self, namespace: str, name: str) -> Facts | None:
        """Images.Get: the digest of an image that was never pulled has no other source."""
        answer = self._ask(
            "/containerd.services.images.v1.Images/Get", _IMAGE, encode({1: name}), namespace
        )
        image = answer and answer["image"]
        digest = image and image["target"] and image["target"]["digest"]
        return Facts(source=self.path, image_digest=digest) if digest else None

    def everything(self, facts: Facts) -> Facts | None:
        """All that this socket adds to what the disk said; None if it does not know the id."""
        container_id = facts.container_id or ""
        namespace = facts.containerd_namespace
        said: Facts | None = None
        if namespace in (None, "k8s.io"):
            said = None if facts.is_sandbox else self.container(container_id)
            if pod := self.sandbox(facts.sandbox_id or container_id):
                said = merge(said, pod) if said else pod
        if said is None or said.image_digest is None:
            native = self.native(namespace or "k8s.io", container_id)
            said = merge(said, native) if said and native else said or native
        return said


def _split_ref(reference: str) -> tuple[str | None, str | None]:
    """(registry digest, image id) out of an image_ref, which is one or the other."""
    _, at, digest = reference.partition("@")
    if at:
        return digest or None, None
    if reference.startswith("sha256:"):
        return None, reference
    return (None, f"sha256:{reference}") if len(reference) == 64 else (None, None)
