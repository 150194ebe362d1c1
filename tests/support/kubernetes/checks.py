"""What can be wrong with manifests; each check yields a sentence per problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import typer
from pydantic import ValidationError

import gmem_bank.http_app
from gmem_bank import server as bank_server
from gmem_generator import serving
from gmem_generator.routes import health
from gmem_shared import telemetry
from gmem_shared.cli import app as gmem
from gmem_shared.ports import load
from gmem_shared.settings import Settings
from tests.support.kubernetes.custom import custom_resources
from tests.support.kubernetes.manifests import Manifests, Object, Pod, expand, selects
from tests.support.kubernetes.network import network
from tests.support.kubernetes.pod_security import pod_security

Check = Callable[[Manifests], Iterator[str]]

PATHS = {
    "bank": {route.path for route in gmem_bank.http_app._health.routes},  # type: ignore[attr-defined]
    "generator": {
        route.path  # type: ignore[attr-defined]
        for route in health.router(None, None, 1).routes  # type: ignore[arg-type]
    },
    "triton": {"/metrics"},  # tritonserver's own
    "object-store": {"/healthz"},  # SeaweedFS's own
}
"""What each of our services answers over HTTP without being asked for anything in particular."""

EVERYWHERE = "0.0.0.0"  # noqa: S104 (a pod is its own host)

METRICS = {spec.name for spec in vars(telemetry).values() if isinstance(spec, telemetry.MetricSpec)}


def problems(manifests: Manifests) -> list[str]:
    """Everything that is wrong."""
    return [problem for check in CHECKS for problem in check(manifests)]


def selectors(manifests: Manifests) -> Iterator[str]:
    """Whoever selects pods finds some; a workload's own among them."""
    for pod in manifests.pods:
        owner = pod.owner["spec"].get("selector")
        if owner is not None and not selects(owner, pod.labels):
            yield f"{pod.where}: does not select its own pods"
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            if not selects(constraint.get("labelSelector", {"matchLabels": {"": ""}}), pod.labels):
                yield f"{pod.where}: a spread constraint does not select its own pods"
    for budget in manifests.of("PodDisruptionBudget"):
        if not manifests.pods_with(budget["spec"]["selector"]):
            yield f"{budget['metadata']['name']}: the disruption budget selects no pods"
    protected = [budget["spec"]["selector"] for budget in manifests.of("PodDisruptionBudget")]
    for pod in manifests.pods:
        if pod.owner["kind"] == "Deployment" and not any(
            selects(selector, pod.labels) for selector in protected
        ):
            yield f"{pod.where}: no disruption budget"


def services(manifests: Manifests) -> Iterator[str]:
    """A Service leads to ports that its pods have."""
    for service in manifests.of("Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        pods = manifests.pods_with({"matchLabels": spec.get("selector", {"": ""})})
        if len(pods) != 1:
            yield f"Service {name}: expected the pods of one workload, found {len(pods)}"
        for pod in pods:
            for port in spec["ports"]:
                target = pod.port(port.get("targetPort", port["port"]))
                if target is None:
                    yield f"Service {name}: no port {port.get('targetPort')} in {pod.where}"
                elif spec.get("clusterIP") == "None" and target != port["port"]:
                    yield f"Service {name}: it is headless, so port {port['port']} is the pod's"
    for stateful in manifests.of("StatefulSet"):
        governing = manifests.get("Service", stateful["spec"]["serviceName"])
        if governing is None:
            yield f"StatefulSet {stateful['metadata']['name']}: its Service does not exist"


def references(manifests: Manifests) -> Iterator[str]:
    """What a pod names exists: accounts, configuration, secrets, claims, volumes."""
    for pod in manifests.pods:
        account = pod.spec.get("serviceAccountName", "default")
        if manifests.get("ServiceAccount", account) is None:
            yield f"{pod.where}: no ServiceAccount {account}"
        volumes = {claim["metadata"]["name"] for claim in _claims(pod)}
        for volume in pod.spec.get("volumes", []):
            volumes.add(volume["name"])
            for kind, name in _volume_source(volume):
                if manifests.get(kind, name) is None:
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


def settings(manifests: Manifests) -> Iterator[str]:
    """Settings are ones we know; ports, addresses and commands are the code's."""
    for pod in _ours(manifests):
        (container,) = pod.containers
        given, _ = manifests.environment(container)
        try:
            found = settings_of(given)
        except (ValidationError, ValueError) as error:
            yield f"{pod.where}: {error}"
            continue
        yield from _listening(found, pod)
        yield from _choices(found, pod)


def commands(manifests: Manifests) -> Iterator[str]:
    """Our images run commands that there are, with options that they have."""
    for pod in _ours(manifests):
        (container,) = pod.containers
        yield from _command(container["args"], pod)
        for probe in _probes(container):
            if "exec" in probe:
                program, *arguments = probe["exec"]["command"]
                if program != "gmem":
                    yield f"{pod.where}: probes with {program}, which the image need not have"
                yield from _command(arguments, pod)


def probes(manifests: Manifests) -> Iterator[str]:
    """Whatever serves has probes, which ask for what there is."""
    for pod in manifests.pods:
        for container in pod.containers:
            if container.get("ports"):
                yield from (
                    f"{pod.where}: {problem}" for problem in _probe_problems(pod, container)
                )


def endings(manifests: Manifests) -> Iterator[str]:
    """A pod is killed later than it has drained, and drains later than clients stop coming."""
    for pod in _ours(manifests):
        if pod.owner["kind"] != "Deployment":
            continue
        (container,) = pod.containers
        given, _ = manifests.environment(container)
        try:
            found = settings_of(given)
        except (ValidationError, ValueError):
            continue  # `settings` says so
        drain = {
            "bank": 2 * bank_server._GRACE_SECONDS,
            "triton": found.triton.exit_timeout_seconds + found.engine.drain_seconds,
            "generator": found.generator.drain_seconds + serving._LAST_BYTES_SECONDS,
        }[pod.name]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep < 5:
            yield f"{pod.where}: stops before its clients know"
        if pod.spec.get("terminationGracePeriodSeconds", 30) <= sleep + drain:
            yield f"{pod.where}: is killed before it has drained {sleep} + {drain} s"
        rolling = pod.owner["spec"].get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0:
            yield f"{pod.where}: a rollout takes pods before it has new ones"


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
        for trigger in spec.get("triggers", []):
            query = trigger["metadata"].get("query", "")
            used = set(re.findall(r"\bgmem_\w+", query))
            if not used or not used <= METRICS:
                yield f"{name}: scales by {query!r}, which has no metric of ours"
            if f'namespace="{manifests.namespace}"' not in query:
                yield f"{name}: counts other installations, too"


def jobs(manifests: Manifests) -> Iterator[str]:
    """Shares of an Indexed Job are as many as it is told."""
    for job in manifests.of("Job"):
        spec = job["spec"]
        if spec.get("completionMode") != "Indexed":
            continue
        (container,) = spec["template"]["spec"]["containers"]
        given, _ = manifests.environment(container)
        if given.get("WORLD_SIZE") != str(spec["completions"]):
            yield f"Job {job['metadata']['name']}: WORLD_SIZE is not {spec['completions']}"


def settings_of(environment: dict[str, str]) -> Settings:
    """The settings that a process with this environment has.

    Raises:
        ValueError: A GMEM_* variable is no setting, or has a value that is refused.
    """
    values: dict[str, dict[str, str]] = {section: {} for section in Settings.model_fields}
    for name, value in environment.items():
        if not name.startswith("GMEM_"):
            continue
        section, _, field = name.removeprefix("GMEM_").lower().partition("__")
        if section not in values:
            raise ValueError(f"{name} is no setting")
        values[section][field] = value  # a section refuses fields that it does not know
    sections: dict[str, Any] = {
        section: field.annotation.model_validate(values[section])  # type: ignore[union-attr]
        for section, field in Settings.model_fields.items()
    }
    return Settings.model_construct(**sections)


def _ours(manifests: Manifests) -> list[Pod]:
    return [
        pod
        for pod in manifests.pods
        if pod.containers[0]["image"].rsplit("/", 1)[-1][:5] == "gmem-"
    ]


def _listening(found: Settings, pod: Pod) -> Iterator[str]:
    expected = {
        "bank": {"http": found.bank.http_port, "grpc": found.bank.grpc_port},
        "triton": {
            "http": found.triton.http_port,
            "grpc": found.triton.grpc_port,
            "metrics": found.triton.metrics_port,
        },
        "generator": {"http": found.generator.port},
    }.get(pod.name, {})
    if pod.ports != expected:
        yield f"{pod.where}: expected ports {expected}, found {pod.ports}"
    hosts = {
        "bank": found.bank.host,
        "triton": found.triton.host,
        "generator": found.generator.host,
    }
    if hosts.get(pod.name, EVERYWHERE) != EVERYWHERE:
        yield f"{pod.where}: listens on {hosts[pod.name]} alone"


def _choices(found: Settings, pod: Pod) -> Iterator[str]:
    if str(found.store.cache_dir) != "/var/lib/gmem/cache":
        yield f"{pod.where}: its cache is not in a volume"
    if not found.log.json_lines:
        yield f"{pod.where}: its log is not for machines"
    for target in (found.generator.backend, found.generator.bank_source):
        try:
            load(target)
        except ValueError as error:
            yield f"{pod.where}: {error}"


def _command(arguments: list[str], pod: Pod) -> Iterator[str]:
    """Parse a command line of ours as ``gmem`` would, without running it."""
    command = typer.main.get_command(gmem)
    context = command.make_context("gmem", list(arguments), resilient_parsing=True)
    rest = list(arguments)
    try:
        while hasattr(command, "get_command"):
            name = rest.pop(0)
            found = command.get_command(context, name)
            if found is None:
                yield f"{pod.where}: there is no command gmem {' '.join(arguments)}"
                return
            command = found
        command.make_context("gmem", rest)
    except Exception as error:  # noqa: BLE001 (typer keeps its classes private)
        yield f"{pod.where}: gmem {' '.join(arguments)}: {error}"


def _probe_problems(pod: Pod, container: Object) -> Iterator[str]:
    wanted = {"livenessProbe", "readinessProbe"}
    if pod.owner["kind"] == "Deployment":
        wanted.add("startupProbe")
    for name in wanted - container.keys():
        yield f"no {name}"
    for probe in _probes(container):
        ask = probe.get("httpGet") or probe.get("tcpSocket") or {}
        if "port" in ask and pod.port(ask["port"]) is None:
            yield f"probes port {ask['port']}, which it has not"
        if "path" in ask and ask["path"] not in PATHS.get(pod.name, set()):
            yield f"probes {ask['path']}, which it does not answer"
        if pod.name == "triton" and "exec" not in probe:
            yield "Triton's own health does not know of its engine"


def _probes(container: Object) -> list[Object]:
    return [container[k] for k in container if k.endswith("Probe")]


def _claims(pod: Pod) -> list[Object]:
    claims: list[Object] = pod.owner["spec"].get("volumeClaimTemplates", [])
    return claims


def _volume_source(volume: Object) -> Iterator[tuple[str, str]]:
    if "configMap" in volume:
        yield "ConfigMap", volume["configMap"]["name"]
    if "secret" in volume:
        yield "Secret", volume["secret"]["secretName"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


CHECKS: tuple[Check, ...] = (
    selectors,
    services,
    references,
    settings,
    commands,
    probes,
    endings,
    scaling,
    jobs,
    network,
    pod_security,
    custom_resources,
)
