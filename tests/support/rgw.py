"""A real S3 server for tests: one Ceph monitor, one in-memory OSD and a RADOS gateway.

Needs the Debian packages ``ceph-mon ceph-osd radosgw ceph-common``; listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.stack import free_ports

CONFIGURATION = """
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{monitor_port}]
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
setuser match path = ""
auth allow insecure global id reclaim = false
mon data = {folder}/mon
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
osd data = {folder}/osd
osd objectstore = memstore
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
ms bind ipv4 = true
public addr = 127.0.0.1
cluster addr = 127.0.0.1
rgw frontends = beast endpoint=127.0.0.1:{gateway_port}
rgw relaxed s3 bucket names = true
"""

KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx"),
}


class _Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway_port, self.monitor_port = free_ports(2)
        self.fsid = str(uuid4())
        self.environment = os.environ | {"CEPH_CONF": str(folder / "ceph.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=120
        )
        return done.stdout.strip()

    def spawn(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as output:
            self.daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
            )

    def start(self) -> None:
        for name in ("mon", "osd"):
            (self.folder / name).mkdir()
        (self.folder / "ceph.conf").write_text(
            CONFIGURATION.format(
                fsid=self.fsid,
                folder=self.folder,
                monitor_port=self.monitor_port,
                gateway_port=self.gateway_port,
            )
        )
        keyring, monitors = str(self.folder / "keyring"), str(self.folder / "monmap")
        for number, (name, capabilities) in enumerate(KEYS.items()):
            caps = [
                part
                for service, allowed in zip(capabilities[::2], capabilities[1::2], strict=True)
                for part in ("--cap", service, allowed)
            ]
            create = () if number else ("--create-keyring",)
            self.run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)
        address = f"[v2:127.0.0.1:{self.monitor_port}]"
        self.run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", address, monitors)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        self.spawn("ceph-mon", "-i", "a", "-f")
        osd_id = str(uuid4())
        assert self.run("ceph", "osd", "new", osd_id) == "0"
        self.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self.run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=test")
        self.spawn("ceph-osd", "-i", "0", "-f")
        self.run(
            *("radosgw-admin", "user", "create", "--uid=test", "--display-name=test"),
            *(f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
        )
        self.spawn("radosgw", "-n", "client.rgw", "-f")

    def wait_for_gateway(self, endpoint: str) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(endpoint, timeout=5):  # noqa: S310 (our own server)
                    return
            except urllib.error.HTTPError as answer:  # it answers, that is enough
                answer.close()
                return
            except OSError:
                assert time.monotonic() < deadline, f"no answer from {endpoint}"
                time.sleep(0.2)

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGKILL)  # nothing of it is kept
            daemon.wait()


@contextmanager
def rados_gateway(folder: Path) -> Iterator[str]:
    """Run a cluster with its files in ``folder``; yields the S3 endpoint."""
    cluster = _Cluster(folder)
    endpoint = f"http://127.0.0.1:{cluster.gateway_port}"
    try:
        cluster.start()
        cluster.wait_for_gateway(endpoint)
        yield endpoint
    finally:
        cluster.stop()
