"""Rendered manifests, and the questions that every check asks them."""

from __future__ import annotations

import base64
import copy
import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[3] / "k8s"

ROOTS = ("overlays/dev", "overlays/gpu", "jobs/digits-50k")
"""Everything that is applied to a cluster."""

CERTIFICATE = {"tls.crt", "tls.key", "ca.crt"}
"""What cert-manager writes into a Secret."""

GIVEN_SECRETS: dict[str, dict[str, set[str]]] = {
    "overlays/gpu": {
        "store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
        "redis": {"password"},
        "api-keys": {"keys.json"},
        "bank-api-key": {"key"},
        "generator-tls": CERTIFICATE,
        "bank-tls": CERTIFICATE,
        "triton-tls": CERTIFICATE,
    }
}
"""Secrets that an operator makes before an overlay is applied, with their keys."""

WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob")

Object = dict[str, Any]

_REFERENCE = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class Pod:
    """A pod template, and the workload it belongs to."""

    owner: Object
    labels: Mapping[str, str]
    spec: Object

    @property
    def name(self) -> str:
        name: str = self.owner["metadata"]["name"]
        return name

    @property
    def where(self) -> str:
        return f"{self.owner['kind']} {self.name}"

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def main(self) -> Object:
        """The container that the pod is for."""
        (container,) = self.spec["containers"]
        found: Object = container
        return found

    @property
    def ports(self) -> dict[str, int]:
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }

    def port(self, name_or_number: str | int) -> int | None:
        """The number of a container port, or None if there is no such port."""
        if isinstance(name_or_number, str):
            return self.ports.get(name_or_number)
        return name_or_number if name_or_number in self.ports.values() else None


class Manifests:
    """The objects of one overlay.

    Args:
        root: Which one.
        objects: Its objects.
    """

    def __init__(self, root: str, objects: list[Object]) -> None:
        self.root = root
        self.objects = objects
        self.given_secrets = GIVEN_SECRETS.get(root, {})

    def of(self, *kinds: str) -> list[Object]:
        return [obj for obj in self.objects if obj["kind"] in kinds]

    def get(self, kind: str, name: str) -> Object | None:
        """The object of exactly this name."""
        for obj in self.of(kind):
            if obj["metadata"]["name"] == name:
                return obj
        return None

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is an object of this name when the overlay is applied."""
        given = kind == "Secret" and name in self.given_secrets
        return given or self.get(kind, name) is not None

    @property
    def namespace(self) -> str:
        (namespace,) = {o["metadata"]["namespace"] for o in self.of("Deployment")}
        return str(namespace)

    @property
    def pods(self) -> list[Pod]:
        return list(map(_pod, self.of(*WORKLOADS)))

    def pods_with(self, selector: Mapping[str, Any]) -> list[Pod]:
        return [pod for pod in self.pods if selects(selector, pod.labels)]

    def data(self, kind: str, name: str) -> dict[str, str] | None:
        """What a ConfigMap or Secret holds; values of given Secrets are made up."""
        obj = self.get(kind, name)
        if obj is not None and kind == "Secret":
            return {key: base64.b64decode(v).decode() for key, v in obj["data"].items()}
        if obj is not None:
            return dict(obj["data"])
        if kind == "Secret" and name in self.given_secrets:
            return dict.fromkeys(self.given_secrets[name], "given")
        return None

    def files(self, pod: Pod, container: Object) -> set[str]:
        """The files that a container finds in mounted ConfigMaps and Secrets."""
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        return {
            f"{mount['mountPath']}/{key}"
            for mount in container.get("volumeMounts", [])
            for kind, name in volume_source(volumes.get(mount["name"], {}))
            if kind in ("ConfigMap", "Secret")
            for key in self.data(kind, name) or {}
        }

    def environment(self, container: Object) -> tuple[dict[str, str], list[str]]:
        """The environment of a container, and what it refers to in vain."""
        values: dict[str, str] = {}
        missing: list[str] = []
        for source in container.get("envFrom", []):
            kind, reference = _source(source, "Ref")
            found = self.data(kind, reference["name"])
            if found is None:
                missing.append(f"{kind} {reference['name']}")
            values |= found or {}
        for variable in container.get("env", []):
            value = variable.get("value")
            if value is None and "valueFrom" not in variable:
                missing.append(f"value of {variable['name']}")
            if "valueFrom" in variable:
                kind, reference = _source(variable["valueFrom"], "KeyRef")
                value = (self.data(kind, reference["name"]) or {}).get(reference["key"])
                if value is None:
                    missing.append(f"key {reference['key']} of {kind} {reference['name']}")
            values[variable["name"]] = expand(value or "", values, missing)
        return values, missing

    def changed(self, kind: str, name: str, path: tuple[str | int, ...], value: Any) -> Manifests:
        """A copy with one field other; ``value`` None takes it away."""
        objects = copy.deepcopy(self.objects)
        (target,) = [obj for obj in objects if _is(obj, kind, name)]
        *parents, last = path
        place: Any = target
        for step in parents:
            place = place[step]
        place[last]  # it is there
        if value is None:
            del place[last]
        else:
            place[last] = value
        return Manifests(self.root, objects)

    def without(self, kind: str, name: str) -> Manifests:
        """A copy without one object."""
        rest = [obj for obj in self.objects if not _is(obj, kind, name)]
        assert len(rest) == len(self.objects) - 1
        return Manifests(self.root, rest)


@functools.cache
def render(root: str) -> Manifests:
    """Build an overlay with ``kubectl kustomize``, which asks no cluster."""
    built = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / root)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return Manifests(root, list(yaml.safe_load_all(built.stdout)))


def volume_source(volume: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of the object that a volume shows."""
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"]
    if "secret" in volume:
        yield "Secret", volume["secret"]["secretName"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    assert selector.keys() <= {"matchLabels"}, "the checks know no other selectors"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def expand(text: str, values: Mapping[str, str], missing: list[str]) -> str:
    """Replace ``$(NAME)`` as Kubernetes does: by what was defined before."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            missing.append(f"variable {match[1]}")
        return values.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def _is(obj: Object, kind: str, name: str) -> bool:
    """Whether an object has this name, but for the hash that Kustomize adds."""
    found = re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", obj["metadata"]["name"])
    return obj["kind"] == kind and found is not None


def _pod(owner: Object) -> Pod:
    spec = owner["spec"]
    if owner["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template = spec["template"]
    return Pod(owner, template["metadata"].get("labels", {}), template["spec"])


def _source(source: Object, suffix: str) -> tuple[str, Object]:
    ((key, reference),) = source.items()
    kinds = {"configMap": "ConfigMap", "secret": "Secret"}
    return kinds[key.removesuffix(suffix)], reference


def walk(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every field below a value, with the way to it."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key), inner
        yield from walk(inner, (*path, key))
