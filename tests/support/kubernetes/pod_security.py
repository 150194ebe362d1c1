"""The restricted Pod Security Standard, in full, and what else every pod of ours must have.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.kubernetes.manifests import Manifests, Object, Pod, walk

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_FORBIDDEN_VALUES = {
    "hostNetwork": (False,),
    "hostPID": (False,),
    "hostIPC": (False,),
    "hostUsers": (True, False),
    "privileged": (False,),
    "hostProcess": (False,),
    "procMount": ("Default",),
}
"""Fields that may have these values only, wherever they are."""
_ABSENT = {"hostPort", "sysctls", "seLinuxOptions", "appArmorProfile"}
"""Fields that some values would be allowed for, and that nobody here needs."""


def pod_security(manifests: Manifests) -> Iterator[str]:
    """Whether the restricted standard lets a pod in, and whether it stays in its bounds."""
    for pod in manifests.pods:
        for problem in (*_restricted(pod), *_bounds(pod)):
            yield f"{pod.where}: {problem}"
    for namespace in manifests.of("Namespace"):
        labels = namespace["metadata"].get("labels", {})
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace {namespace['metadata']['name']}: lets unrestricted pods in"
    for account in manifests.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {account['metadata']['name']}: hands out its token"


def _restricted(pod: Pod) -> Iterator[str]:
    for path, value in walk(pod.spec):
        name = path[-1]
        if name in _FORBIDDEN_VALUES and value not in _FORBIDDEN_VALUES[str(name)]:
            yield f"{name} is {value}"
        if name in _ABSENT or (name == "host" and {"httpGet", "tcpSocket"} & set(path)):
            yield f"{name} is set"
    for volume in pod.spec.get("volumes", []):
        if len(volume) != 2 or not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']} is of no kind, or of one that is not allowed"
    for container in pod.containers:
        own = container.get("securityContext", {})
        yield from _context(pod.spec.get("securityContext", {}) | own, own)


def _context(both: Object, own: Object) -> Iterator[str]:
    if both.get("runAsNonRoot") is not True:
        yield "may run as root"
    if not both.get("runAsUser"):
        yield "runs as whatever user the image says"
    if both.get("fsGroup") != both.get("runAsUser"):
        yield "may be unable to write to its volumes"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "has capabilities"


def _bounds(pod: Pod) -> Iterator[str]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "has a token for the API server"
    if pod.spec.get("enableServiceLinks") is not False:
        yield "is told of every Service in variables"
    for volume in pod.spec.get("volumes", []):
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"volume {volume['name']} may fill the node"
    for container in pod.containers:
        yield from _container_bounds(container)


def _container_bounds(container: Object) -> Iterator[str]:
    if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    resources = container.get("resources", {})
    for kind, names in {
        "requests": ("cpu", "memory", "ephemeral-storage"),
        "limits": ("memory", "ephemeral-storage"),
    }.items():
        for name in names:
            if name not in resources.get(kind, {}):
                yield f"has no {kind} of {name}"
    _, _, tag = container["image"].rsplit("/", 1)[-1].partition(":")
    if tag in ("", "latest"):
        yield f"runs whatever {container['image']} is today"
