"""What our processes are told, checked against the code that they run."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from unittest import mock
from urllib.parse import urlsplit

import typer

import gmem_bank.http_app
from gmem_bank import server as bank_server
from gmem_generator import readiness, serving
from gmem_generator.routes import health
from gmem_shared.cli import app as gmem
from gmem_shared.errors import InvalidRequestError
from gmem_shared.ports import load
from gmem_shared.settings import Settings, read_settings
from tests.support.kubernetes.manifests import FOLDER, Manifests, Object, Pod

ROOT = FOLDER.parent

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

COMMANDS = {
    "bank": ["bank", "serve"],
    "triton": ["triton", "serve"],
    "generator": ["serve"],
    "trainer": ["train"],
    "sample": ["sample"],
}

DOCKERFILES = {
    "gmem-bank": "services/bank/Dockerfile",
    "gmem-generator": "services/generator/Dockerfile",
    "gmem-trainer": "services/trainer/Dockerfile",
    "gmem-triton": "services/generator/triton.Dockerfile",
}

STORE_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}

WRITABLE = {"/var/lib/gmem", "/tmp"}  # noqa: S108 (inside our images)

EVERYWHERE = "0.0.0.0"  # noqa: S104 (a pod is its own host)


def settings(manifests: Manifests) -> Iterator[str]:
    """Settings are ones we know; ports, addresses and places are the code's."""
    for pod in _ours(manifests):
        for container in pod.containers:
            given, _ = manifests.environment(container)
            if "gmem/store" in pod.labels and not given.keys() >= STORE_KEYS:
                yield f"{pod.where}: may not enter the store"
            mounted = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
            if not mounted >= WRITABLE:
                yield f"{pod.where}: can write to {mounted} only"
            try:
                found = settings_of(given)
            except InvalidRequestError as error:
                yield f"{pod.where}: {error}"
                continue
            yield from _choices(found, pod)
            if container is pod.main:
                yield from _listening(found, pod)
                yield from _sharing(found, pod, given)


def files(manifests: Manifests) -> Iterator[str]:
    """Files that settings name are mounted."""
    for pod in _ours(manifests):
        for container in pod.containers:
            given, _ = manifests.environment(container)
            there = manifests.files(pod, container)
            for name, value in given.items():
                if name.startswith("GMEM_") and name.endswith("_FILE") and value not in there:
                    yield f"{pod.where}: {name} is {value}, which no volume brings"


def commands(manifests: Manifests) -> Iterator[str]:
    """Our images run commands that there are, with options that they have."""
    for pod in _ours(manifests):
        container = pod.main
        for ahead in pod.spec.get("initContainers", []):
            yield from _command(ahead["args"], pod)
        begins = COMMANDS[pod.name]
        if container["args"][: len(begins)] != begins:
            yield f"{pod.where}: does not run gmem {' '.join(begins)}"
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
            if container.get("ports") and pod.owner["kind"] not in ("Job", "CronJob"):
                values, _ = manifests.environment(container)
                scheme = "HTTPS" if "GMEM_SECURITY__TLS_CERT_FILE" in values else "HTTP"
                yield from (
                    f"{pod.where}: {problem}" for problem in _probe_problems(pod, container, scheme)
                )


def protection(manifests: Manifests) -> Iterator[str]:
    """Who speaks TLS is spoken to so, by clients that know it; who wants a key is shown one."""
    found = {}
    for pod in _ours(manifests):
        given, _ = manifests.environment(pod.main)
        with contextlib.suppress(InvalidRequestError):  # `settings` says so
            found[pod.name] = settings_of(given)
    encrypted = {name for name, each in found.items() if each.security.tls_cert_file is not None}
    if encrypted - {"generator"} not in (set(), {"bank", "triton"}):
        yield f"of bank and Triton, {encrypted} speaks TLS; the front end does with both or none"
    # Triton is its own client: its probe asks over gRPC.
    for name in {"generator", "triton"} & found.keys():
        knows = found[name].security.tls_ca_file is not None
        if knows != ("triton" in encrypted):
            yield f"{name} {'expects' if knows else 'does not expect'} TLS of bank and Triton"
    if "bank" in found and "generator" in found:
        wanted = found["bank"].security.api_keys_file is not None
        if wanted != (found["generator"].bank.api_key_file is not None):
            yield "the front end's key for the bank is missing, or nobody asks for it"
        if wanted != (found["generator"].security.api_keys_file is not None):
            yield "front end or bank answers anyone"


def endings(manifests: Manifests) -> Iterator[str]:
    """A pod is killed later than it has drained, and drains later than clients stop coming."""
    for pod in _ours(manifests):
        if pod.owner["kind"] != "Deployment":
            continue
        container = pod.main
        given, _ = manifests.environment(container)
        try:
            found = settings_of(given)
        except InvalidRequestError:
            continue  # `settings` says so
        drain = {
            "bank": 2 * bank_server._GRACE_SECONDS,
            "triton": found.triton.exit_timeout_seconds,
            "generator": found.generator.leave_seconds
            + found.generator.drain_seconds
            + serving._LAST_BYTES_SECONDS,
        }[pod.name]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        leave = found.generator.leave_seconds if pod.name == "generator" else 0
        if sleep + leave < 5:
            yield f"{pod.where}: stops before its clients know"
        if pod.spec.get("terminationGracePeriodSeconds", 30) <= sleep + drain:
            yield f"{pod.where}: is killed before it has drained {sleep} + {drain} s"
        if found.triton.exit_timeout_seconds <= found.engine.drain_seconds:
            yield f"{pod.where}: Triton exits before its engine has drained"
        rolling = pod.owner["spec"].get("strategy", {}).get("rollingUpdate", {})
        if rolling.get("maxUnavailable") != 0:
            yield f"{pod.where}: a rollout takes pods before it has new ones"


def jobs(manifests: Manifests) -> Iterator[str]:
    """Jobs end, do not overlap, and have as many shares as they are told."""
    for pod in manifests.pods:
        spec = pod.owner["spec"]
        if pod.owner["kind"] in ("Job", "CronJob") and pod.spec.get("restartPolicy", "") not in (
            "OnFailure",
            "Never",
        ):
            yield f"{pod.where}: a Job whose pods are always started again"
        checks = [ahead["args"] for ahead in pod.spec.get("initContainers", [])]
        if pod.name == "trainer" and checks != [["store", "check"]]:
            yield f"{pod.where}: publishes to a store that may let two writers win"
        if pod.owner["kind"] == "CronJob" and spec.get("concurrencyPolicy") != "Forbid":
            yield f"{pod.where}: may run twice at a time"
        if pod.name == "sample":
            given, _ = manifests.environment(pod.main)
            if spec.get("completionMode") != "Indexed":
                yield f"{pod.where}: every pod would make the first share"
            if given.get("WORLD_SIZE") != str(spec["completions"]):
                yield f"{pod.where}: WORLD_SIZE is not {spec['completions']}"


def cores(manifests: Manifests) -> Iterator[str]:
    """Where as many processes start as there are cores, it is said how many; a GPU is one."""
    for pod in _ours(manifests):
        container = pod.main
        limits = container["resources"].get("limits", {})
        if pod.name in ("triton", "sample", "trainer") and "cpu" not in limits:
            yield f"{pod.where}: computes on as many cores as the node has"
        given, _ = manifests.environment(container)
        on_gpu = given.get("GMEM_ENGINE__DEVICE") == "cuda"
        if on_gpu != (limits.get("nvidia.com/gpu") == 1) or on_gpu != ("nodeSelector" in pod.spec):
            yield f"{pod.where}: a GPU is used, asked for and looked for, or it is not"
        tolerated = {toleration.get("key") for toleration in pod.spec.get("tolerations", [])}
        if on_gpu and not (pod.spec.get("nodeSelector") and "nvidia.com/gpu" in tolerated):
            yield f"{pod.where}: no node with a GPU takes it"
        if on_gpu != container["image"].endswith("-gpu"):
            yield f"{pod.where}: the image is for another device"
        if pod.name == "triton" and not any(
            volume.get("emptyDir", {}).get("medium") == "Memory"
            and {"name": volume["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]  # noqa: S108 (where Triton meets its stub)
            for volume in pod.spec["volumes"]
        ):
            yield f"{pod.where}: no shared memory beyond the 64 MiB of a container"


def images(manifests: Manifests) -> Iterator[str]:
    """Pods are what our images expect: their user, their ports, their command line."""
    for pod in _ours(manifests):
        image = pod.main["image"].rsplit("/", 1)[-1].partition(":")[0]
        lines = (ROOT / DOCKERFILES[image]).read_text().splitlines()
        said = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
        user = pod.spec.get("securityContext", {}).get("runAsUser")
        if said["USER"] != f"{user}:{user}":
            yield f"{pod.where}: runs as {user}, its image as {said['USER']}"
        exposed = set(map(int, said.get("EXPOSE", "").split()))
        if set(pod.ports.values()) != exposed and pod.owner["kind"] == "Deployment":
            yield f"{pod.where}: has ports {pod.ports}, its image {said.get('EXPOSE')}"
        if said["ENTRYPOINT"] != '["gmem"]' or "command" in pod.main:
            yield f"{pod.where}: its image does not begin with gmem"


def redis(manifests: Manifests) -> Iterator[str]:
    """Redis keeps what it is told, and tells nobody without the password."""
    for pod in manifests.pods:
        if pod.name == "redis":
            arguments = pod.main.get("args", [])
            told = dict(zip(arguments[::2], arguments[1::2], strict=False))
            if pod.main.get("command") != ["redis-server"]:
                yield f"{pod.where}: what it starts depends on the image's entry point"
            ask = pod.main.get("readinessProbe", {}).get("exec", {}).get("command")
            if ask != ["redis-cli", "-e", "ping"]:
                yield f"{pod.where}: is ready while it reads its file"
            if told.get("--appendonly") != "yes" or "--requirepass" not in told:
                yield f"{pod.where}: forgets, or answers anyone"
            if told.get("--maxmemory-policy") != "noeviction" or "--maxmemory" not in told:
                yield f"{pod.where}: makes room by forgetting, or takes all there is"


def settings_of(environment: dict[str, str]) -> Settings:
    """The settings that a process with this environment has.

    Raises:
        InvalidRequestError: A GMEM_* variable is no setting, or has a value that is refused; that
            files exist is not asked here.
    """
    for name in environment:
        if name.startswith("GMEM_") and "__" not in name:  # a process leaves it to others
            raise InvalidRequestError(f"{name} is no setting")
    given = {n: __file__ if n.endswith("_FILE") else value for n, value in environment.items()}
    with mock.patch.dict(os.environ, given, clear=True):
        return read_settings()


def _ours(manifests: Manifests) -> list[Pod]:
    return [pod for pod in manifests.pods if pod.main["image"].rsplit("/", 1)[-1][:5] == "gmem-"]


def _listening(found: Settings, pod: Pod) -> Iterator[str]:
    expected = {
        "bank": {"http": found.bank.http_port, "grpc": found.bank.grpc_port},
        "triton": {
            "http": found.triton.http_port,
            "grpc": found.triton.grpc_port,
            "metrics": found.triton.metrics_port,
        },
        "generator": {"http": found.generator.port},
        "trainer": {"metrics": found.trainer.metrics_port} if found.trainer.metrics_port else {},
    }.get(pod.name, {})
    if pod.ports != expected:
        yield f"{pod.where}: expected ports {expected}, found {pod.ports}"
    hosts = {
        "bank": found.bank.host,
        "triton": found.triton.host,
        "generator": found.generator.host,
        "trainer": found.trainer.metrics_host if pod.ports else EVERYWHERE,
    }
    if hosts.get(pod.name, EVERYWHERE) != EVERYWHERE:
        yield f"{pod.where}: listens on {hosts[pod.name]} alone"


def _sharing(found: Settings, pod: Pod, given: dict[str, str]) -> Iterator[str]:
    shares = found.redis.url != "memory://"
    if shares != ("gmem/redis" in pod.labels):
        yield f"{pod.where}: is told of a Redis that does not let it in, or not told of it"
    if shares and found.redis.password_file is None:
        yield f"{pod.where}: does not know Redis' password"
    inside = "." not in (urlsplit(given.get("AWS_ENDPOINT_URL", "")).hostname or ".")
    if pod.name == "generator" and inside and found.jobs.presigned_links:
        yield f"{pod.where}: sends clients to a store that they cannot reach"


def _choices(found: Settings, pod: Pod) -> Iterator[str]:
    if str(found.store.cache_dir) != "/var/lib/gmem/cache":
        yield f"{pod.where}: its cache is not in a volume"
    if not found.log.json_lines:
        yield f"{pod.where}: its log is not for machines"
    if pod.name == "triton" and not found.triton.runtime_dir.is_relative_to("/var/lib/gmem"):
        yield f"{pod.where}: cannot write to {found.triton.runtime_dir}"
    if "gmem/store" in pod.labels and not found.store.url.startswith("s3://"):
        yield f"{pod.where}: its store is {found.store.url}"
    if pod.name != "generator":
        return
    for target in (found.generator.backend, found.generator.bank_source):
        if target.partition(".")[0] not in ("gmem_generator", "gmem_shared"):
            yield f"{pod.where}: {target} is not in its image"
            continue
        try:
            load(target)
        except ValueError as error:
            yield f"{pod.where}: {error}"


def _command(arguments: list[str], pod: Pod) -> Iterator[str]:
    problem = _command_problem(tuple(arguments))
    if problem is not None:
        yield f"{pod.where}: gmem {' '.join(arguments)}: {problem}"


@functools.cache
def _command_problem(arguments: tuple[str, ...]) -> str | None:
    """Parse a command line of ours as ``gmem`` would, without running it."""
    command = typer.main.get_command(gmem)
    context = command.make_context("gmem", list(arguments), resilient_parsing=True)
    rest = list(arguments)
    while hasattr(command, "get_command"):
        found = command.get_command(context, rest.pop(0)) if rest else None
        if found is None:
            return "there is no such command"
        command = found
    try:
        command.make_context("gmem", rest)
    except Exception as error:  # noqa: BLE001 (typer keeps its classes private)
        return str(error)
    return None


def _probe_problems(pod: Pod, container: Object, scheme: str) -> Iterator[str]:
    wanted = {"livenessProbe", "readinessProbe"}
    if pod.owner["kind"] == "Deployment":
        wanted.add("startupProbe")
    for name in wanted - container.keys():
        yield f"no {name}"
    for probe in _probes(container):
        handlers = [probe[kind] for kind in ("httpGet", "tcpSocket", "exec") if probe.get(kind)]
        if len(handlers) != 1:
            yield f"a probe that asks {len(handlers)} things"
            continue
        yield from _ask_problems(pod, probe, handlers[0], scheme)
    start = container.get("startupProbe", {})
    patience = start.get("periodSeconds", 10) * start.get("failureThreshold", 3)
    if start and patience > pod.owner["spec"].get("progressDeadlineSeconds", 600):
        yield "a rollout counts as failed while a pod may still be starting"


def _ask_problems(pod: Pod, probe: Object, ask: Object, scheme: str) -> Iterator[str]:
    if "port" in ask and pod.port(ask["port"]) is None:
        yield f"probes port {ask['port']}, which it has not"
    if "httpGet" in probe and ask.get("path") not in PATHS.get(pod.name, set()):
        yield f"probes {ask.get('path')}, which it does not answer"
    if "httpGet" in probe and ask.get("scheme", "HTTP") != scheme:
        yield f"is probed in another protocol than {scheme}"
    if pod.name == "triton" and "exec" not in probe:
        yield "Triton's own health does not know of its engine"
    asks_others = "exec" in probe or ask.get("path") not in (None, "/livez")
    if asks_others and probe.get("timeoutSeconds", 1) <= readiness.TIMEOUT_SECONDS:
        yield "a probe gives up before those it asks for may answer"


def _probes(container: Object) -> list[Object]:
    return [container[k] for k in container if k.endswith("Probe")]
