"""What can be wrong with manifests; each check yields a sentence per problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from gmem_shared import telemetry
from tests.support.kubernetes.custom import custom_resources
from tests.support.kubernetes.manifests import Manifests, Object, Pod, expand, volume_source
from tests.support.kubernetes.network import network
from tests.support.kubernetes.pod_security import pod_security
from tests.support.kubernetes.processes import (
    commands,
    cores,
    endings,
    files,
    images,
    jobs,
    probes,
    protection,
    redis,
    settings,
)

Check = Callable[[Manifests], Iterator[str]]

HEADLESS = {"bank", "triton", "redis"}
"""Clients of the first two balance themselves; the last is one pod."""

METRICS = {spec.name for spec in vars(telemetry).values() if isinstance(spec, telemetry.MetricSpec)}


def problems(manifests: Manifests) -> list[str]:
    """Everything that is wrong."""
    return [problem for check in CHECKS for problem in check(manifests)]


def selectors(manifests: Manifests) -> Iterator[str]:
    """Whoever selects pods selects those of one workload, and that one."""
    for pod in manifests.pods:
        own = {"matchLabels": {"app.kubernetes.io/name": pod.name}}
        if pod.owner["spec"].get("selector", own) != own:
            yield f"{pod.where}: does not select its own pods alone"
        if pod.owner["kind"] != "Deployment":
            continue
        spread = {
            constraint["topologyKey"]: constraint.get("labelSelector")
            for constraint in pod.spec.get("topologySpreadConstraints", [])
        }
        if spread != {"kubernetes.io/hostname": own, "topology.kubernetes.io/zone": own}:
            yield f"{pod.where}: its pods are not spread over nodes and zones"
        if not any(
            budget["spec"].get("selector") == own
            and budget["spec"].get("maxUnavailable") == 1
            and budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
            for budget in manifests.of("PodDisruptionBudget")
        ):
            yield f"{pod.where}: a drained node may take all its pods"
    for budget in manifests.of("PodDisruptionBudget"):
        if len(manifests.pods_with(budget["spec"]["selector"])) != 1:
            yield f"{budget['metadata']['name']}: not the disruption budget of one workload"


def services(manifests: Manifests) -> Iterator[str]:
    """A Service leads to the ports that the pods of one workload have, to all of them."""
    for service in manifests.of("Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        pods = manifests.pods_with({"matchLabels": spec.get("selector", {"": ""})})
        if len(pods) != 1:
            yield f"Service {name}: expected the pods of one workload, found {len(pods)}"
        offered = {port.get("targetPort", port["port"]): port["port"] for port in spec["ports"]}
        for pod in pods:
            if offered != pod.ports:
                yield f"Service {name}: expected ports {pod.ports}, found {offered}"
        if (spec.get("clusterIP") == "None") != (name in HEADLESS):
            yield f"Service {name}: its clients need {'all' if name in HEADLESS else 'one'} address"
    for stateful in manifests.of("StatefulSet"):
        if manifests.get("Service", stateful["spec"]["serviceName"]) is None:
            yield f"StatefulSet {stateful['metadata']['name']}: its Service does not exist"


def claims(manifests: Manifests) -> Iterator[str]:
    """Claims ask for a size, and for as many writers as there are."""
    for stateful in manifests.of("StatefulSet"):
        for claim in stateful["spec"].get("volumeClaimTemplates", []):
            yield from _claim_problems(claim, "ReadWriteOnce")
    for claim in manifests.of("PersistentVolumeClaim"):
        yield from _claim_problems(claim, "ReadWriteMany")


def contents(manifests: Manifests) -> Iterator[str]:
    """What holds settings, files or secrets holds some."""
    for holder in manifests.of("ConfigMap", "Secret"):
        if not holder.get("data"):
            yield f"{holder['kind']} {holder['metadata']['name']}: holds nothing"


def references(manifests: Manifests) -> Iterator[str]:
    """What a pod names exists: accounts, configuration, secrets, claims, volumes."""
    for pod in manifests.pods:
        account = pod.spec.get("serviceAccountName", "default")
        if manifests.get("ServiceAccount", account) is None:
            yield f"{pod.where}: no ServiceAccount {account}"
        volumes = {claim["metadata"]["name"] for claim in _claims(pod)}
        for volume in pod.spec.get("volumes", []):
            volumes.add(volume["name"])
            for kind, name in volume_source(volume):
                if not manifests.exists(kind, name):
                    yield f"{pod.where}: no {kind} {name}"
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
        for name in mounted ^ volumes:
            yield f"{pod.where}: volume {name} is mounted or declared, but not both"
        for container in pod.containers:
            values, missing = manifests.environment(container)
            for argument in [*container.get("command", []), *container.get("args", [])]:
                expand(argument, values, missing)
            for name in missing:
                yield f"{pod.where}: no {name}"


def scaling(manifests: Manifests) -> Iterator[str]:
    """Whoever scales finds a workload that nobody else scales, by a metric that exists."""
    for scaler in manifests.of("HorizontalPodAutoscaler", "ScaledObject"):
        name, spec = scaler["metadata"]["name"], scaler["spec"]
        reference = spec["scaleTargetRef"]
        target = manifests.get(reference.get("kind", "Deployment"), reference["name"])
        if target is None:
            yield f"{name}: scales {reference['name']}, which does not exist"
        elif "replicas" in target["spec"]:
            yield f"{name}: an apply would set the replicas of {reference['name']} back"
        if not spec.get("metrics", spec.get("triggers")):
            yield f"{name}: scales by nothing"
        for trigger in spec.get("triggers", []):
            query = trigger["metadata"].get("query", "")
            used = set(re.findall(r"\bgmem_\w+", query))
            if not used or not used <= METRICS:
                yield f"{name}: scales by {query!r}, which has no metric of ours"
            if f'namespace="{manifests.namespace}"' not in query:
                yield f"{name}: counts other installations, too"
            if trigger["metadata"].get("ignoreNullValues") != "false":
                yield f"{name}: a Prometheus without figures scales down"


def _claims(pod: Pod) -> list[Object]:
    claims: list[Object] = pod.owner["spec"].get("volumeClaimTemplates", [])
    return claims


def _claim_problems(claim: Object, mode: str) -> Iterator[str]:
    spec = claim.get("spec", {})
    if spec.get("accessModes") != [mode] or not spec.get("resources", {}).get("requests"):
        yield f"claim {claim['metadata']['name']}: expected a size and {mode}"


CHECKS: tuple[Check, ...] = (
    selectors,
    services,
    claims,
    contents,
    references,
    settings,
    files,
    commands,
    probes,
    protection,
    endings,
    scaling,
    jobs,
    cores,
    images,
    redis,
    network,
    pod_security,
    custom_resources,
)
