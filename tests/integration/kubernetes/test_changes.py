"""What one file says and another relies on: taken away or changed, a check notices."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest

from tests.support.kubernetes import custom
from tests.support.kubernetes.checks import problems
from tests.support.kubernetes.manifests import ROOTS, Manifests, Object, render, walk

pytestmark = pytest.mark.kubectl

DEV, GPU, JOB = "overlays/dev", "overlays/gpu", "jobs/digits-50k"

Path = tuple[str | int, ...]

POD: Path = ("spec", "template", "spec")
MAIN: Path = (*POD, "containers", 0)
AHEAD: Path = ("spec", "jobTemplate", *POD, "initContainers", 0)
LABELS: Path = ("spec", "template", "metadata", "labels")
LABEL: Path = (*LABELS, "app.kubernetes.io/name")
GONE = None
REDIS_CLIENTS = ("bank", "triton", "generator")
HTTPS_PROBE = {"path": "/readyz", "port": "http", "scheme": "HTTPS"}
HTTPS_ENDPOINT = {"port": "metrics", "scheme": "https"}

CHANGES: list[tuple[str, str, str, Path, Any]] = [
    # labels and selectors
    *[(DEV, "Deployment", name, LABEL, "other") for name in ("bank", "triton", "generator")],
    (DEV, "StatefulSet", "redis", LABEL, "other"),
    (DEV, "StatefulSet", "object-store", LABEL, "other"),
    (DEV, "Deployment", "bank", ("spec", "template", "metadata", "labels", "gmem/store"), GONE),
    (DEV, "Deployment", "bank", (*POD, "topologySpreadConstraints", 0, "labelSelector"), GONE),
    (DEV, "PodDisruptionBudget", "bank", ("spec", "selector", "matchLabels"), {"a": "b"}),
    (DEV, "Service", "bank", ("spec", "selector"), {"app.kubernetes.io/name": "triton"}),
    (DEV, "Deployment", "bank", ("spec", "selector", "matchLabels"), GONE),
    (DEV, "Deployment", "bank", (*POD, "topologySpreadConstraints", 1), GONE),
    (DEV, "PodDisruptionBudget", "bank", ("spec", "selector", "matchLabels"), GONE),
    (DEV, "PodDisruptionBudget", "bank", ("spec", "maxUnavailable"), GONE),
    *[(DEV, "Service", name, ("spec", "clusterIP"), GONE) for name in ("bank", "triton", "redis")],
    # ports
    (DEV, "Deployment", "bank", (*MAIN, "ports", 0), GONE),
    (DEV, "Deployment", "bank", (*MAIN, "ports", 1), GONE),
    (DEV, "Deployment", "bank", (*MAIN, "ports", 1, "name"), "rpc"),
    (DEV, "Deployment", "bank", (*MAIN, "ports", 1, "containerPort"), 8111),
    (DEV, "Deployment", "triton", (*MAIN, "ports", 2), GONE),
    (DEV, "Deployment", "generator", (*MAIN, "ports", 0, "containerPort"), 80),
    (DEV, "StatefulSet", "redis", (*MAIN, "ports", 0, "name"), "tcp"),
    (DEV, "Service", "bank", ("spec", "ports", 1), GONE),
    (DEV, "Service", "bank", ("spec", "ports", 1, "port"), 80),
    (DEV, "Service", "bank", ("spec", "ports", 1, "targetPort"), "rpc"),
    (DEV, "Service", "triton", ("spec", "ports", 1), GONE),
    (DEV, "Service", "redis", ("spec", "ports", 0, "port"), 6380),
    (DEV, "Service", "object-store", ("spec", "ports", 0, "targetPort"), "http"),
    # settings and commands
    (DEV, "ConfigMap", "bank", ("data", "GMEM_BANK__HOST"), GONE),
    (DEV, "ConfigMap", "bank", ("data",), {"GMEM_BANK__HOST": "127.0.0.1"}),
    (DEV, "ConfigMap", "bank", ("data",), {"GMEM_BANK__HOTS": "bank"}),
    (DEV, "ConfigMap", "bank", ("data",), {"GMEM_BANKS__HOST": "bank"}),
    (DEV, "ConfigMap", "settings", ("data", "GMEM_STORE__CACHE_DIR"), GONE),
    (DEV, "ConfigMap", "settings", ("data", "AWS_ENDPOINT_URL"), GONE),
    (DEV, "ConfigMap", "settings", ("data", "AWS_ENDPOINT_URL"), "http://object-store:9000"),
    (DEV, "ConfigMap", "settings", ("data", "GMEM_STORE__URL"), GONE),
    (DEV, "ConfigMap", "triton", ("data", "GMEM_TRITON__RUNTIME_DIR"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__BACKEND"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__BANK_SOURCE"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_BANK__ADDRESS"), "bank:8100"),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_BANK__ADDRESS"), "banks:8101"),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_BANK__ADDRESS"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__TRITON_ADDRESS"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__BACKEND"), "gmem_generator.x:Y"),
    (DEV, "Deployment", "bank", (*MAIN, "args", 1), "sevre"),
    (DEV, "Deployment", "bank", (*MAIN, "args", 0), GONE),
    (DEV, "CronJob", "trainer", ("spec", "jobTemplate", *MAIN, "args", 1), "--perset"),
    (JOB, "Job", "sample", (*MAIN, "args", 1), "--modle"),
    (JOB, "Job", "sample", (*MAIN, "args", 4), "many"),
    # configuration and secrets
    *[(DEV, "Deployment", "bank", (*MAIN, "envFrom", i), GONE) for i in range(4)],
    *[(DEV, "Deployment", name, (*LABELS, "gmem/redis"), GONE) for name in REDIS_CLIENTS],
    (DEV, "ConfigMap", "redis", ("data", "GMEM_REDIS__PASSWORD_FILE"), GONE),
    (DEV, "ConfigMap", "redis", ("data", "GMEM_REDIS__PASSWORD_FILE"), "/etc/gmem/redis/pasword"),
    (DEV, "ConfigMap", "redis", ("data", "GMEM_REDIS__URL"), "redis://redis:6380/0"),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_JOBS__PRESIGNED_LINKS"), GONE),
    (DEV, "Secret", "redis", ("data", "password"), GONE),
    (DEV, "Secret", "store", ("data", "AWS_ACCESS_KEY_ID"), GONE),
    (DEV, "Secret", "store", ("data", "AWS_SECRET_ACCESS_KEY"), GONE),
    (DEV, "StatefulSet", "redis", (*MAIN, "env", 0), GONE),
    (DEV, "Deployment", "bank", (*POD, "serviceAccountName"), GONE),
    (DEV, "Deployment", "bank", (*POD, "volumes", 0), GONE),
    (DEV, "Deployment", "triton", (*POD, "volumes", 3, "name"), "memory"),
    (DEV, "Deployment", "triton", (*POD, "volumes", 3, "emptyDir", "medium"), GONE),
    (DEV, "Deployment", "triton", (*POD, "volumes", 3, "emptyDir"), GONE),
    (DEV, "Deployment", "triton", (*MAIN, "resources", "limits", "cpu"), GONE),
    (DEV, "StatefulSet", "redis", ("spec", "volumeClaimTemplates", 0), GONE),
    (DEV, "StatefulSet", "redis", ("spec", "volumeClaimTemplates", 0, "spec"), GONE),
    (DEV, "StatefulSet", "redis", (*MAIN, "args", 1), "no"),
    (DEV, "StatefulSet", "redis", (*MAIN, "args"), GONE),
    (DEV, "StatefulSet", "redis", ("spec", "serviceName"), "cache"),
    # probes and endings
    (DEV, "Deployment", "bank", (*MAIN, "readinessProbe"), GONE),
    (DEV, "Deployment", "bank", (*MAIN, "livenessProbe", "httpGet", "path"), "/healthz"),
    (DEV, "Deployment", "bank", (*MAIN, "livenessProbe", "httpGet", "port"), "web"),
    (DEV, "Deployment", "bank", (*MAIN, "livenessProbe", "httpGet"), GONE),
    (DEV, "Deployment", "bank", (*MAIN, "livenessProbe", "httpGet", "path"), GONE),
    (DEV, "Deployment", "generator", (*MAIN, "readinessProbe", "timeoutSeconds"), GONE),
    (DEV, "Deployment", "triton", (*MAIN, "livenessProbe", "timeoutSeconds"), GONE),
    (DEV, "Deployment", "triton", (*MAIN, "readinessProbe"), {"httpGet": {"port": "http"}}),
    (DEV, "Deployment", "triton", (*MAIN, "livenessProbe", "exec", "command", 2), "prode"),
    (DEV, "Deployment", "bank", (*MAIN, "lifecycle"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__LEAVE_SECONDS"), GONE),
    (DEV, "ConfigMap", "generator", ("data", "GMEM_GENERATOR__LEAVE_SECONDS"), "60"),
    *[
        (DEV, "Deployment", name, (*POD, "terminationGracePeriodSeconds"), 25)
        for name in ("bank", "triton", "generator")
    ],
    (DEV, "Deployment", "bank", ("spec", "strategy"), GONE),
    # the network
    *[
        (DEV, "NetworkPolicy", name, ("spec", "ingress", 0, "ports", 0, "port"), 1)
        for name in ("bank", "triton", "redis", "generator", "object-store")
    ],
    *[(DEV, "NetworkPolicy", "generator", ("spec", "egress", i), GONE) for i in range(2)],
    (DEV, "NetworkPolicy", "redis-clients", ("spec", "egress", 0), GONE),
    (DEV, "NetworkPolicy", "generator", ("spec", "egress", 0, "ports", 0, "port"), 8100),
    (DEV, "NetworkPolicy", "bank", ("spec", "ingress", 0, "from"), GONE),
    (DEV, "NetworkPolicy", "default-deny", ("spec", "policyTypes", 1), GONE),
    (DEV, "NetworkPolicy", "generator", ("spec", "policyTypes", 1), GONE),
    (DEV, "NetworkPolicy", "bank", ("spec", "policyTypes"), GONE),
    (DEV, "NetworkPolicy", "dns", ("spec", "egress", 0, "to", 0, "podSelector"), {}),
    (DEV, "NetworkPolicy", "dns", ("spec", "egress", 0, "ports", 0), GONE),
    (DEV, "NetworkPolicy", "dns", ("spec", "podSelector", "matchLabels"), {"a": "b"}),
    (DEV, "NetworkPolicy", "store", ("spec", "podSelector"), {}),
    (GPU, "NetworkPolicy", "store", ("spec", "egress", 0, "ports", 0, "port"), 80),
    (GPU, "NetworkPolicy", "bank-metrics", ("spec", "ingress", 0, "ports", 0, "port"), "grpc"),
    # pod security
    *[
        (DEV, "Deployment", "bank", (*POD, *field), GONE)
        for field in (
            ("automountServiceAccountToken",),
            ("enableServiceLinks",),
            ("securityContext", "runAsNonRoot"),
            ("securityContext", "runAsUser"),
            ("securityContext", "fsGroup"),
            ("securityContext", "seccompProfile"),
            ("volumes", 0, "emptyDir", "sizeLimit"),
        )
    ],
    *[
        (DEV, "Deployment", "bank", (*MAIN, *field), GONE)
        for field in (
            ("securityContext", "allowPrivilegeEscalation"),
            ("securityContext", "readOnlyRootFilesystem"),
            ("securityContext", "capabilities"),
            ("resources", "limits", "memory"),
            ("resources", "requests", "cpu"),
        )
    ],
    (DEV, "Deployment", "bank", (*POD, "volumes", 0), {"name": "gmem", "hostPath": {"path": "/"}}),
    (DEV, "Deployment", "bank", (*MAIN, "image"), "gmem-bank"),
    (DEV, "Deployment", "bank", (*POD, "securityContext"), {"runAsUser": 1000}),
    (DEV, "ServiceAccount", "bank", ("automountServiceAccountToken",), GONE),
    (DEV, "Namespace", "gmem-dev", ("metadata", "labels"), {}),
    # GPUs and jobs
    (GPU, "ConfigMap", "triton", ("data", "GMEM_ENGINE__DEVICE"), GONE),
    (GPU, "Deployment", "triton", (*MAIN, "resources", "limits", "nvidia.com/gpu"), GONE),
    (GPU, "Deployment", "triton", (*MAIN, "image"), "gmem-triton:0.1.0"),
    (GPU, "Deployment", "triton", (*POD, "nodeSelector"), GONE),
    (DEV, "CronJob", "trainer", ("spec", "concurrencyPolicy"), GONE),
    (DEV, "CronJob", "trainer", ("spec", "jobTemplate", *POD, "initContainers"), GONE),
    (
        DEV,
        "CronJob",
        "trainer",
        ("spec", "jobTemplate", *POD, "initContainers", 0, "args", 1),
        "chek",
    ),
    (DEV, "CronJob", "trainer", ("spec", "jobTemplate", *POD, "restartPolicy"), GONE),
    # monitoring and scaling
    (GPU, "ServiceMonitor", "bank", ("spec", "endpoints", 0, "port"), "metrics"),
    (GPU, "ServiceMonitor", "bank", ("spec", "endpoints", 0, "path"), "/stats"),
    (GPU, "ServiceMonitor", "bank", ("spec", "selector", "matchLabels"), {"a": "b"}),
    (GPU, "ServiceMonitor", "bank", ("spec", "endpoints", 0, "interval"), "soon"),
    (GPU, "Service", "triton", ("metadata", "labels", "app.kubernetes.io/name"), "engine"),
    (GPU, "Service", "triton", ("spec", "ports", 2), GONE),
    (GPU, "ScaledObject", "triton", ("spec", "scaleTargetRef", "name"), "engine"),
    (GPU, "ScaledObject", "triton", ("spec", "triggers", 0, "metadata", "query"), "avg(gmem_x)"),
    (GPU, "ScaledObject", "triton", ("spec", "triggers", 0, "metadata", "threshold"), GONE),
    (GPU, "ScaledObject", "triton", ("spec", "triggers", 0, "metricType"), "Mean"),
    (GPU, "ScaledObject", "triton", ("spec", "advanced"), {"hpaConfig": {}}),
    (GPU, "HorizontalPodAutoscaler", "generator", ("spec", "scaleTargetRef", "name"), "front"),
    (GPU, "PodMonitor", "trainer", ("spec", "podMetricsEndpoints", 0, "port"), "http"),
    (GPU, "PodMonitor", "trainer", ("spec", "jobLabel"), "app.kubernetes.io/part-of"),
    (GPU, "ConfigMap", "trainer", ("data", "GMEM_TRAINER__METRICS_PORT"), "8301"),
    (GPU, "ConfigMap", "trainer", ("data", "GMEM_TRAINER__METRICS_HOST"), GONE),
    (GPU, "NetworkPolicy", "trainer-metrics", ("spec", "ingress", 0, "ports", 0, "port"), "http"),
    # keys and certificates
    *[
        (GPU, "ConfigMap", "generator", ("data", name), GONE)
        for name in (
            "GMEM_BANK__API_KEY_FILE",
            "GMEM_SECURITY__API_KEYS_FILE",
            "GMEM_SECURITY__TLS_CA_FILE",
            "GMEM_SECURITY__TLS_CERT_FILE",
            "GMEM_SECURITY__TLS_KEY_FILE",
        )
    ],
    (GPU, "ConfigMap", "bank", ("data", "GMEM_SECURITY__API_KEYS_FILE"), GONE),
    (GPU, "ConfigMap", "bank", ("data", "GMEM_SECURITY__TLS_KEY_FILE"), "/etc/gmem/tls/key.pem"),
    (GPU, "ConfigMap", "triton", ("data", "GMEM_SECURITY__TLS_CA_FILE"), GONE),
    (GPU, "Deployment", "generator", (*MAIN, "livenessProbe", "httpGet", "scheme"), GONE),
    (DEV, "Deployment", "bank", (*MAIN, "readinessProbe", "httpGet"), HTTPS_PROBE),
    (GPU, "Deployment", "bank", (*POD, "volumes", 0, "secret", "secretName"), "tls"),
    (GPU, "ServiceMonitor", "bank", ("spec", "endpoints", 0, "scheme"), GONE),
    (GPU, "ServiceMonitor", "triton", ("spec", "endpoints", 0), HTTPS_ENDPOINT),
    (GPU, "ServiceMonitor", "bank", ("spec", "endpoints", 0, "tlsConfig", "serverName"), "banks"),
    # the Indexed Job
    (JOB, "Job", "sample", ("spec", "completions"), 9),
    (JOB, "Job", "sample", (*MAIN, "env", 0), GONE),
    (JOB, "Job", "sample", (*POD, "volumes", 0, "persistentVolumeClaim", "claimName"), "other"),
]


FREE = [
    # held equal to observability/, where tests ask a real Prometheus every expression
    r"PrometheusRule spec.*",
    r"ConfigMap data\.\w+\.json",
    # how many, how often, how long: any number would do, Kubernetes' own among them
    r"\w+ spec\.replicas",
    r"Deployment spec\.strategy\.rollingUpdate\.maxSurge",
    r"\w+ .*Probe\.(periodSeconds|failureThreshold|timeoutSeconds)",
    r"\w+ .*\.terminationGracePeriodSeconds",
    r"CronJob .*(HistoryLimit|DeadlineSeconds|timeZone|suspend)",
    r"\w+ .*(backoffLimit\w*|ttlSecondsAfterFinished|parallelism|podFailurePolicy.*)",
    r"HorizontalPodAutoscaler spec\.(behavior.*|minReplicas)",
    r"HorizontalPodAutoscaler spec\.metrics\.0\.resource(\.target\.averageUtilization)?",
    r"ScaledObject spec\.(advanced.*|pollingInterval)",
    r"(Service|Pod)Monitor .*\.interval",
    r"CronJob .*\.initContainers\.0\.resources\.limits\.cpu",
    # what Kubernetes, an operator or a service of ours would fill in
    r"\w+ .*\.securityContext\.(fsGroupChangePolicy|runAsGroup)",
    r"\w+ .*\.volumeMounts\.\d\.readOnly",
    r"\w+ .*\.requests\.nvidia\.com/gpu",
    r"\w+ .*\.tolerations\.0\.(effect|operator)",
    r"NetworkPolicy .*\.protocol",
    r"NetworkPolicy spec\.podSelector\.matchLabels.*",  # of `dns`
    r"HorizontalPodAutoscaler spec\.scaleTargetRef\.apiVersion",
    r"(Service|Pod)Monitor .*\.path",
    r"Secret type",
    r"Service spec\.ports\.\d\.(name|targetPort)",
    r"ConfigMap data\.(AWS_REGION|GMEM_GENERATOR__DEFAULT_MODEL|GMEM_ENGINE__RUNTIME)",
    r"ConfigMap data\.T\w+_CACHE_DIR",
    r"ConfigMap data\.GMEM_QUOTA__\w+",
    # labels that only people read
    r"CronJob spec\.jobTemplate\.metadata.*",
    r"(CronJob|Job) .*\.template\.metadata\.labels\.app\.kubernetes\.io/name",
    r"StatefulSet spec\.volumeClaimTemplates\.0\.metadata\.labels.*",
    # programs of others, in clusters for development
    r"StatefulSet spec\.template\.spec\.containers\.0\.args.*",
    r"Job spec\.template\.spec\.containers\.0\.(args|command|resources\.limits\.cpu).*",
    r"Secret data(\.s3\.json)?",
]
"""Fields that nothing relies on, or whose absence changes nothing."""

IDENTITY = {"apiVersion", "kind", "metadata"}


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
def test_every_field_is_missed_or_known_to_be_free(root: str) -> None:
    manifests, free = render(root), re.compile("|".join(f"({pattern})" for pattern in FREE))
    unnoticed = [
        f"{obj['kind']} {obj['metadata']['name']}: {name}"
        for obj in manifests.objects
        if root == DEV or obj not in render(DEV).objects
        for path, _ in walk({key: value for key, value in obj.items() if key not in IDENTITY})
        if not free.fullmatch(f"{obj['kind']} {(name := '.'.join(map(str, path)))}")
        and not is_missed(manifests, obj, path)
    ]
    assert unnoticed == []


def is_missed(manifests: Manifests, obj: Object, path: Path) -> bool:
    """Whether a check, or the schema, notices that a field is gone."""
    kind, name = obj["kind"], obj["metadata"]["name"]
    changed = manifests.changed(kind, name, path, GONE)
    try:
        if problems(changed):
            return True
        if not custom.is_custom(obj):
            kubernetes_validate.validate(changed.get(kind, name), "1.30", strict=True)
    except (KeyError, IndexError, TypeError, ValueError, kubernetes_validate.ValidationError):
        return True  # it is not even a manifest that can be checked
    return False


@pytest.mark.parametrize(
    ("root", "kind", "name", "path", "value"),
    CHANGES,
    ids=[f"{kind}-{name}-{'.'.join(map(str, path))}-{v}" for _, kind, name, path, v in CHANGES],
)
def test_a_change_that_breaks_another_file_is_noticed(root, kind, name, path, value) -> None:
    assert problems(render(root).changed(kind, name, path, value))


@pytest.mark.parametrize(
    ("root", "kind", "name"),
    [
        *[(DEV, "Service", name) for name in ("bank", "triton", "redis", "object-store")],
        *[(DEV, "ServiceAccount", name) for name in ("bank", "trainer", "bucket")],
        *[(DEV, "ConfigMap", name) for name in ("settings", "redis", *REDIS_CLIENTS)],
        *[(DEV, "Secret", name) for name in ("store", "redis", "object-store")],
        *[(DEV, "PodDisruptionBudget", name) for name in ("bank", "triton", "generator")],
        *[
            (DEV, "NetworkPolicy", name)
            for name in (
                "default-deny", "dns", "generator", "bank", "triton", "redis", "redis-clients",
                "store", "object-store",
            )
        ],
        *[
            (GPU, "NetworkPolicy", name)
            for name in ("store", "bank-metrics", "triton-metrics", "trainer-metrics")
        ],
        (GPU, "ServiceMonitor", "bank"),
        (GPU, "PodMonitor", "trainer"),
        (GPU, "ConfigMap", "trainer"),
        (GPU, "Deployment", "triton"),
        (JOB, "PersistentVolumeClaim", "samples"),
        (JOB, "ServiceAccount", "sample"),
    ],
)  # fmt: skip
def test_an_object_that_others_need_is_missed(root, kind, name) -> None:
    assert problems(render(root).without(kind, name))


def test_a_second_hand_on_the_replicas_is_noticed() -> None:
    manifests = render(GPU)
    deployment = manifests.get("Deployment", "triton")
    assert deployment is not None
    changed = manifests.changed(
        "Deployment", "triton", ("spec",), deployment["spec"] | {"replicas": 1}
    )
    assert problems(changed)
