"""Pods without a cluster: ``podman play kube`` starts the specs that an overlay holds.

What podman 4.3 lacks is put in its place, as a cluster would do it: a Service is an alias on the
network, a Secret the ConfigMap of the same content, a volume a folder of the pod's ``fsGroup``, and
probes are asked here. Ports are not published: clients are in the network.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from tests.e2e.compose.engine import run
from tests.support.kubernetes.manifests import Manifests, Object, Pod, expand

CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]
[engine]
runtime = "runc"
events_logger = "file"
"""
"""Of an engine that may not raise limits, and whose cgroups crun refuses."""


@dataclass(frozen=True)
class Podman:
    """Starts pods of an overlay in one network."""

    manifests: Manifests
    folder: Path
    network: str = "gmem-pods"

    def __post_init__(self) -> None:
        self._configuration.write_text(CONFIGURATION)

    @property
    def _configuration(self) -> Path:
        return self.folder / "containers.conf"

    def command(self, *arguments: str, **options: Any) -> str:
        environment = os.environ | {"CONTAINERS_CONF": str(self._configuration)}
        return run("podman", "--log-level=fatal", *arguments, env=environment, **options)

    def load(self, *images: str) -> None:
        """Take images over from Docker."""
        archive = self.folder / "images.tar"
        run("docker", "save", "-o", str(archive), *images)
        self.command("load", "-q", "-i", str(archive))
        archive.unlink()

    def start(self, pod: Pod) -> None:
        objects = [_config_map(self.manifests, o) for o in self.manifests.of("ConfigMap", "Secret")]
        metadata = {"name": pod.name, "labels": dict(pod.labels)}
        spec = self._spec(pod)
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        file = self.folder / f"{pod.name}.yaml"
        file.write_text(yaml.safe_dump_all(objects))
        network = f"{self.network}:alias={pod.name}"
        self.command("play", "kube", "--network", network, str(file))

    def wait_ended(self, pod: Pod, seconds: float = 300.0) -> None:
        """Wait for a pod that ends by itself; it has to end well."""
        end = time.monotonic() + seconds
        while (state := self.inspect(self.container(pod))["State"])["Running"]:
            assert time.monotonic() < end, self.logs(pod)
            time.sleep(0.5)
        assert state["ExitCode"] == 0, self.logs(pod)

    def wait_ready(self, pod: Pod, seconds: float = 120.0) -> None:
        """Ask as a kubelet asks: the start, then that it lives, then that it is ready."""
        end = time.monotonic() + seconds
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = pod.main.get(kind)
            while probe is not None and not self._succeeds(pod, probe):
                assert time.monotonic() < end, f"{pod.where}: {kind}\n{self.logs(pod)}"
                time.sleep(0.5)

    def address(self, pod: Pod) -> str:
        infra = json.loads(self.command("pod", "inspect", pod.name))["InfraContainerID"]
        networks = self.inspect(infra)["NetworkSettings"]["Networks"]
        return str(networks[self.network]["IPAddress"])

    def inspect(self, container: str) -> Object:
        found: Object = json.loads(self.command("inspect", container))[0]
        return found

    def execute(self, pod: Pod, *command: str, **options: Any) -> str:
        return self.command("exec", self.container(pod), *command, **options)

    def logs(self, pod: Pod) -> str:
        return self.command("logs", "--tail", "60", self.container(pod), check=False)

    @staticmethod
    def container(pod: Pod) -> str:
        return f"{pod.name}-{pod.main['name']}"

    def remove_all(self) -> None:
        self.command("pod", "rm", "-fa", "-t", "5", check=False)
        self.command("rm", "-fa", "-t", "5", check=False)
        self.command("network", "rm", "-f", self.network, check=False)

    def _spec(self, pod: Pod) -> Object:
        spec = copy.deepcopy(pod.spec)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            values, missing = self.manifests.environment(container)
            for key in {"command", "args"} & container.keys():
                container[key] = [expand(text, values, missing) for text in container[key]]
            container["image"] = f"localhost/{container['image'].rpartition('/')[2]}"
            container["imagePullPolicy"] = "Never"
            container.pop("ports", None)
            container.get("lifecycle", {}).pop("preStop", None)
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    source["configMapRef"] = source.pop("secretRef")
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if "secretKeyRef" in source:
                    source["configMapKeyRef"] = source.pop("secretKeyRef")
        claims = pod.owner["spec"].get("volumeClaimTemplates", [])
        volumes = spec.get("volumes", [])
        spec["volumes"] = [self._volume(pod, volume) for volume in [*volumes, *map(_claim, claims)]]
        return spec

    def _volume(self, pod: Pod, volume: Object) -> Object:
        match volume:
            case {"secret": {"secretName": name}}:
                return {"name": volume["name"], "configMap": {"name": name}}
            case {"emptyDir": _}:
                folder = self.folder / pod.name / volume["name"]
                folder.mkdir(parents=True, exist_ok=True)
                os.chown(folder, -1, pod.spec["securityContext"]["fsGroup"])
                folder.chmod(0o2775)
                return {"name": volume["name"], "hostPath": {"path": str(folder)}}
        return volume

    def _succeeds(self, pod: Pod, probe: Object) -> bool:
        patience = probe.get("timeoutSeconds", 1)
        match probe:
            case {"exec": {"command": command}}:
                try:
                    self.execute(pod, *command, timeout=patience)
                except (AssertionError, subprocess.TimeoutExpired):
                    return False
            case {"httpGet": {"path": path, "port": port}}:
                url = f"http://{self.address(pod)}:{pod.port(port)}{path}"
                try:
                    urlopen(url, timeout=patience).close()
                except OSError:
                    return False
            case {"tcpSocket": {"port": port}}:
                try:
                    socket.create_connection((self.address(pod), pod.port(port)), patience).close()
                except OSError:
                    return False
        return True


def _claim(claim: Object) -> Object:
    return {"name": claim["metadata"]["name"], "emptyDir": {}}


def _config_map(manifests: Manifests, obj: Object) -> Object:
    name = obj["metadata"]["name"]
    data = manifests.data(obj["kind"], name)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
