"""Who may talk to whom, and who does: both must be the same."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.kubernetes.manifests import Manifests, Object, Pod, selects

Edge = tuple[str, str, int]
"""Client, server, port of the server's pods."""

ANYONE, OUTSIDE = "anyone", "outside"

PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
"""What is not outside: a cluster's own networks, and where machines hand out credentials."""

_ADDRESS = re.compile(r"(?:^|//|@)([a-z][a-z0-9-]*):(\d+)(?:/|$)")


def network(manifests: Manifests) -> Iterator[str]:
    """Policies allow what clients are configured to do, at both ends, and nothing more."""
    needed = set(_configured(manifests))
    inside = {edge for edge in needed if edge[0] in {pod.name for pod in manifests.pods}}
    for edge in sorted(inside ^ set(_allowed_out(manifests))):
        problem = "is needed" if edge in inside else "is not needed"
        yield f"network: the way out from {edge[0]} to {edge[1]}, port {edge[2]}, {problem}"
    arriving = {edge for edge in needed if edge[1] != OUTSIDE}
    for edge in sorted(arriving ^ set(_allowed_in(manifests))):
        problem = "is needed" if edge in arriving else "is not needed"
        yield f"network: the way in from {edge[0]} to {edge[1]}, port {edge[2]}, {problem}"
    if not any(_denies_everything(policy["spec"]) for policy in manifests.of("NetworkPolicy")):
        yield "network: what is not allowed is not refused"
    for pod in manifests.pods:
        if not any(
            _is_dns(rule) and selects(selector, pod.labels)
            for selector, rule in _rules(manifests, "Egress")
        ):
            yield f"network: {pod.name} cannot look names up"


def _configured(manifests: Manifests) -> Iterator[Edge]:
    yield ANYONE, "generator", 8000
    for pod in manifests.pods:
        for container in pod.containers:
            values, _ = manifests.environment(container)
            yield from _addressed(manifests, pod, values)
    for monitor in manifests.of("ServiceMonitor", "PodMonitor"):
        spec = monitor["spec"]
        for pod in manifests.pods_with(spec["selector"]):
            for endpoint in spec.get("endpoints", spec.get("podMetricsEndpoints", [])):
                port = pod.port(endpoint["port"])
                if port is not None and pod.name != "generator":
                    yield "monitoring", pod.name, port


def _addressed(manifests: Manifests, client: Pod, values: dict[str, str]) -> Iterator[Edge]:
    """Whom a pod finds in its environment; the store only if it may enter."""
    if not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= values.keys():
        values.pop("AWS_ENDPOINT_URL", None)
    elif "AWS_ENDPOINT_URL" not in values:
        yield client.name, OUTSIDE, 443
    for value in values.values():
        for host, port in _ADDRESS.findall(value):
            yield from _behind(manifests, client, host, int(port))


def _behind(manifests: Manifests, client: Pod, host: str, port: int) -> Iterator[Edge]:
    """The pods behind a name; a name that stands for nothing is an edge that nobody allows."""
    service = manifests.get("Service", host)
    ports = [p for p in service["spec"]["ports"] if p["port"] == port] if service else []
    if service is None or not ports:
        yield client.name, f"{host}, which is no Service with this port", port
        return
    for pod in manifests.pods_with({"matchLabels": service["spec"].get("selector", {"": ""})}):
        yield client.name, pod.name, pod.port(ports[0].get("targetPort", port)) or port


def _allowed_out(manifests: Manifests) -> Iterator[Edge]:
    for selector, rule in _rules(manifests, "Egress"):
        if _is_dns(rule):
            continue
        for client in manifests.pods_with(selector):
            for peer in rule["to"]:
                for port in rule["ports"]:
                    if "ipBlock" in peer:
                        private = set(peer["ipBlock"].get("except", []))
                        yield client.name, OUTSIDE if private == PRIVATE else "all", port["port"]
                        continue
                    for server in manifests.pods_with(peer["podSelector"]):
                        yield client.name, server.name, server.port(port["port"]) or -1


def _allowed_in(manifests: Manifests) -> Iterator[Edge]:
    for selector, rule in _rules(manifests, "Ingress"):
        for server in manifests.pods_with(selector):
            for client in _clients(manifests, rule):
                for port in rule["ports"]:
                    yield client, server.name, server.port(port["port"]) or -1


def _rules(manifests: Manifests, direction: str) -> Iterator[tuple[Object, Object]]:
    """The rules of a direction, with the selector of the pods that they are for."""
    for policy in manifests.of("NetworkPolicy"):
        spec = policy["spec"]
        if direction in spec.get("policyTypes", []):
            yield from ((spec["podSelector"], rule) for rule in spec.get(direction.lower(), []))


def _clients(manifests: Manifests, rule: Object) -> Iterator[str]:
    if "from" not in rule:
        yield ANYONE
    for peer in rule.get("from", []):
        if "namespaceSelector" in peer:
            yield peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        else:
            yield from (pod.name for pod in manifests.pods_with(peer["podSelector"]))


def _is_dns(rule: Object) -> bool:
    return rule == {
        "to": [
            {
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}
                },
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            },
            {"ipBlock": {"cidr": "169.254.20.10/32"}},
            {"ipBlock": {"cidr": "169.254.169.254/32"}},
        ],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }


def _denies_everything(spec: Object) -> bool:
    return (
        spec["podSelector"] == {}
        and set(spec.get("policyTypes", [])) == {"Ingress", "Egress"}
        and not {"ingress", "egress"} & spec.keys()
    )
