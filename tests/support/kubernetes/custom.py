"""The custom resources in use, as far as they are used: Kubernetes' own schemas know none of them.

Fields beyond these are refused, so a misspelt one is noticed. The shapes are those of the CRDs of
the Prometheus operator (monitoring.coreos.com/v1) and of KEDA (keda.sh/v1alpha1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tests.support.kubernetes.manifests import Manifests

Duration = Annotated[str, Field(pattern=r"^([0-9]+(ms|[smhdwy]))+$")]


class Shape(BaseModel):
    """Part of an object."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Selector(Shape):
    match_labels: dict[str, str]


class SecretKey(Shape):
    name: str
    key: str


class SecretOrConfigMap(Shape):
    secret: SecretKey


class TLSConfig(Shape):
    ca: SecretOrConfigMap
    server_name: str


class Endpoint(Shape):
    port: str
    path: str = "/metrics"
    interval: Duration | None = None
    scheme: Literal["http", "https"] = "http"
    tls_config: TLSConfig | None = None


class ServiceMonitorSpec(Shape):
    selector: Selector
    endpoints: list[Endpoint] = Field(min_length=1)


class PodMonitorSpec(Shape):
    selector: Selector
    job_label: str
    pod_metrics_endpoints: list[Endpoint] = Field(min_length=1)


class Rule(Shape):
    expr: str
    alert: str | None = None
    record: str | None = None
    for_: Duration | None = Field(None, alias="for")
    keep_firing_for: Duration | None = Field(None, alias="keep_firing_for")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class RuleGroup(Shape):
    name: str
    interval: Duration | None = None
    rules: list[Rule]


class PrometheusRuleSpec(Shape):
    groups: list[RuleGroup]


class ScaleTarget(Shape):
    name: str
    kind: str = "Deployment"
    api_version: str = "apps/v1"


class ScalingPolicy(Shape):
    type: Literal["Percent", "Pods"]
    value: int = Field(gt=0)
    period_seconds: int = Field(gt=0, le=1800)


class ScalingRules(Shape):
    stabilization_window_seconds: int | None = Field(None, ge=0, le=3600)
    policies: list[ScalingPolicy] = []


class Behavior(Shape):
    scale_up: ScalingRules = ScalingRules()
    scale_down: ScalingRules = ScalingRules()


class AutoscalerConfig(Shape):
    behavior: Behavior


class Advanced(Shape):
    horizontal_pod_autoscaler_config: AutoscalerConfig


class PrometheusTrigger(Shape):
    server_address: str = Field(pattern=r"^https?://")
    query: str
    threshold: str = Field(pattern=r"^[0-9.]+$")
    activation_threshold: str | None = None
    ignore_null_values: Literal["true", "false"] = "true"


class Trigger(Shape):
    type: Literal["prometheus"]
    metric_type: Literal["Value", "AverageValue"]
    metadata: PrometheusTrigger


class ScaledObjectSpec(Shape):
    scale_target_ref: ScaleTarget
    min_replica_count: int = Field(ge=0)
    max_replica_count: int = Field(ge=1)
    polling_interval: int = Field(30, gt=0)
    advanced: Advanced | None = None
    triggers: list[Trigger] = Field(min_length=1)


SHAPES: dict[tuple[str, str], type[Shape]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitorSpec,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitorSpec,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRuleSpec,
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObjectSpec,
}


def is_custom(obj: dict[str, Any]) -> bool:
    """Whether an object is of a type that Kubernetes does not bring itself."""
    group = obj["apiVersion"].partition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def custom_resources(manifests: Manifests) -> Iterator[str]:
    """Custom resources have the shape of their type; monitors find a port that answers."""
    for obj in filter(is_custom, manifests.objects):
        where = f"{obj['kind']} {obj['metadata']['name']}"
        shape = SHAPES.get((obj["apiVersion"], obj["kind"]))
        if shape is None:
            yield f"{where}: {obj['apiVersion']} is not known here"
            continue
        try:
            shape.model_validate(obj["spec"])
        except ValidationError as error:
            yield f"{where}: {error}"
    for monitor in manifests.of("ServiceMonitor"):
        yield from _monitor(manifests, monitor)
    for monitor in manifests.of("PodMonitor"):
        yield from _pod_monitor(manifests, monitor)


def _pod_monitor(manifests: Manifests, monitor: dict[str, Any]) -> Iterator[str]:
    name, spec = monitor["metadata"]["name"], monitor["spec"]
    pods = manifests.pods_with(spec["selector"])
    if len(pods) != 1:
        yield f"PodMonitor {name}: expected the pods of one workload, found {len(pods)}"
    for pod in pods:
        if pod.labels.get(spec["jobLabel"]) != pod.name:
            yield f"PodMonitor {name}: dashboards know its job as {pod.name}"
        for endpoint in spec["podMetricsEndpoints"]:
            if pod.port(endpoint["port"]) is None:
                yield f"PodMonitor {name}: its pods have no port {endpoint['port']}"


def _monitor(manifests: Manifests, monitor: dict[str, Any]) -> Iterator[str]:
    name, labels = monitor["metadata"]["name"], monitor["spec"]["selector"]["matchLabels"]
    services = [
        service
        for service in manifests.of("Service")
        if labels.items() <= service["metadata"].get("labels", {}).items()
    ]
    if len(services) != 1:
        yield f"ServiceMonitor {name}: expected one Service, found {len(services)}"
    for service in services:
        ports = {port["name"] for port in service["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint["port"] not in ports:
                yield f"ServiceMonitor {name}: the Service has no port {endpoint['port']}"
            if endpoint.get("path", "/metrics") != "/metrics":
                yield f"ServiceMonitor {name}: metrics are at /metrics"
            yield from (
                f"ServiceMonitor {name}: {problem}"
                for problem in _scheme_problems(manifests, service, endpoint)
            )


def _scheme_problems(
    manifests: Manifests, service: dict[str, Any], endpoint: dict[str, Any]
) -> Iterator[str]:
    """Only ports for HTTP of a pod with a certificate speak TLS; Triton's do not."""
    for pod in manifests.pods_with({"matchLabels": service["spec"]["selector"]}):
        values, _ = manifests.environment(pod.main)
        encrypted = endpoint["port"] == "http" and "GMEM_SECURITY__TLS_CERT_FILE" in values
        if (endpoint.get("scheme", "http") == "https") != encrypted:
            yield f"port {endpoint['port']} speaks {'TLS' if encrypted else 'no TLS'}"
        if not encrypted:
            return
        known = endpoint["tlsConfig"]
        ca = known["ca"]["secret"]
        if ca["key"] not in (manifests.data("Secret", ca["name"]) or {}):
            yield f"there is no {ca['key']} in the Secret {ca['name']}"
        if known["serverName"] != service["metadata"]["name"]:
            yield f"the certificate is not for {known['serverName']}"
