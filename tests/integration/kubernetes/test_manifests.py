"""Every overlay builds, is valid, and fits together; no cluster is asked."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.kubernetes import custom
from tests.support.kubernetes.checks import CHECKS, Check
from tests.support.kubernetes.manifests import (
    CERTIFICATE,
    FOLDER,
    GIVEN_SECRETS,
    ROOTS,
    Manifests,
    render,
)
from tools import prometheus_rule
from tools.prometheus_rule import RULES, WRAPPED

pytestmark = pytest.mark.kubectl

GRAFANA = FOLDER.parent / "observability/grafana"

KUBERNETES = ("1.30", "1.37")
"""The oldest release with a preStop sleep, and the newest whose schemas are at hand."""


@pytest.fixture(params=ROOTS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(request.param)


@pytest.mark.parametrize("release", KUBERNETES)
def test_every_object_is_valid_down_to_unknown_fields(manifests, release) -> None:
    for obj in manifests.objects:
        if not custom.is_custom(obj):
            kubernetes_validate.validate(obj, release, strict=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_an_overlay_has_no_problems(manifests: Manifests, check: Check) -> None:
    assert list(check(manifests)) == []


def test_every_object_is_named_for_its_part_and_stays_in_its_namespace(manifests) -> None:
    for obj in manifests.objects:
        labels = obj["metadata"].get("labels", {})
        if obj["kind"] == "Namespace":
            continue
        assert obj["metadata"]["namespace"] == manifests.namespace
        if obj["kind"] not in ("ConfigMap", "Secret", "NetworkPolicy"):
            assert labels["app.kubernetes.io/name"], obj["metadata"]["name"]
    for pod in manifests.pods:
        assert pod.labels["app.kubernetes.io/part-of"] == "gmem"
        assert pod.labels["app.kubernetes.io/name"] == pod.name


def test_our_images_are_of_this_release(manifests) -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    images = {c["image"] for pod in manifests.pods for c in pod.containers}
    ours = {image for image in images if "gmem-" in image}
    tags = {image.rpartition(":")[2].removesuffix("-gpu") for image in ours}
    assert tags == {project["version"]}
    for obj in manifests.of("Deployment", "CronJob"):
        assert obj["metadata"]["labels"]["app.kubernetes.io/version"] == project["version"]


def test_a_changed_setting_rolls_out_those_who_read_it(manifests) -> None:
    for pod in manifests.pods:
        for container in pod.containers:
            for source in container.get("envFrom", []):
                name = source.get("configMapRef", {}).get("name")
                assert name is None or name.rpartition("-")[2].isalnum()
                assert name is None or len(name.rpartition("-")[2]) == 10


def test_secrets_to_be_made_are_in_the_guide() -> None:
    guide = (FOLDER.parent / "docs/operations/kubernetes.md").read_text()
    for secrets in GIVEN_SECRETS.values():
        for name, keys in secrets.items():
            if keys == CERTIFICATE:
                assert f"`{name}`" in guide
                continue
            assert f"create secret generic {name} " in guide
            for key in keys:
                assert re.search(rf"--from-(literal|file)={key}\b", guide)


def test_no_overlay_that_is_used_in_earnest_holds_a_secret() -> None:
    assert not render("overlays/gpu").of("Secret")


def test_the_server_of_the_development_bucket_knows_its_clients() -> None:
    dev = render("overlays/dev")
    secrets = {
        s["metadata"]["name"].rpartition("-")[0]: s["metadata"]["name"] for s in dev.of("Secret")
    }
    client = dev.data("Secret", secrets["store"])
    server = json.loads((dev.data("Secret", secrets["object-store"]) or {})["s3.json"])
    assert client is not None
    assert server["identities"][0]["credentials"] == [
        {"accessKey": client["AWS_ACCESS_KEY_ID"], "secretKey": client["AWS_SECRET_ACCESS_KEY"]}
    ]


def test_the_operator_has_the_rules_of_prometheus() -> None:
    rules = prometheus_rule.wrapped(RULES.read_text()) if RULES.exists() else None
    assert (WRAPPED.read_text() if WRAPPED.exists() else None) == rules, "make k8s-rules"


def test_rules_for_the_operator_are_those_that_were_wrapped() -> None:
    rules = "groups:\n  - name: gmem\n    rules:\n\n      - {record: a, expr: b}\n"
    wrapped = yaml.safe_load(prometheus_rule.wrapped(rules))
    assert wrapped["spec"] == yaml.safe_load(rules)
    manifests = Manifests("overlays/gpu", [wrapped])
    assert list(custom.custom_resources(manifests)) == []


def test_every_file_is_part_of_some_overlay() -> None:
    used = {path for root in ROOTS for path in _reached(FOLDER / root)}
    wanted = [
        *FOLDER.rglob("*"),
        GRAFANA / "kustomization.yaml",
        *GRAFANA.glob("dashboards/*.json"),
    ]
    assert used == {path for path in wanted if path.is_file()}


def test_dashboards_are_found_by_grafana_and_taken_by_kubectl() -> None:
    held = [
        c for c in render("overlays/gpu").of("ConfigMap") if "dashboards" in c["metadata"]["name"]
    ]
    for config_map in held:
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        # `kubectl apply` keeps a copy of the whole in an annotation, which has at most 256 KiB.
        assert len(json.dumps(config_map)) < 256 * 1024
    found = {name: text for config_map in held for name, text in config_map["data"].items()}
    assert found == {path.name: path.read_text() for path in GRAFANA.glob("dashboards/*.json")}


def _reached(folder: Path) -> set[Path]:
    """The files that a kustomization reads, itself among them."""
    file = folder / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    found = {file}
    generators = [*content.get("configMapGenerator", []), *content.get("secretGenerator", [])]
    names = [n for g in generators for key in ("envs", "files") for n in g.get(key, [])]
    names += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
    for name in [*content.get("resources", []), *content.get("components", []), *names]:
        path = (folder / name.rpartition("=")[2]).resolve()
        found |= _reached(path) if path.is_dir() else {path}
    return found
