from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.harness.load import closed_loop, open_loop, patient_open_loop
from benchmarks.harness.servers import System, serving

ECHO = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"images": [""] * request["num_images"]}).encode()
        first = request["num_images"] == 7 and not Handler.__dict__.get("refused")
        if first:
            Handler.refused = True
        self.send_response(429 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        if first:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def echo(name: str = "echo") -> System:
    return System(name, lambda port: [sys.executable, "-c", ECHO, str(port)])


def test_a_system_is_served_until_the_block_ends(tmp_path: Path) -> None:
    with serving(echo(), tmp_path) as server:
        (body,) = server.system.bodies([{"num_images": 1}])
        outcomes = closed_loop(server.url, [body], clients=2, seconds=0.2)
        assert outcomes
        assert all(outcome.ok for outcome in outcomes)
    with pytest.raises(OSError, match="refused|reset"):
        urllib.request.urlopen(server.url, timeout=1)  # noqa: S310 (our own server)


def test_an_open_loop_sends_each_request_in_its_turn(tmp_path: Path) -> None:
    with serving(echo(), tmp_path) as server:
        bodies = server.system.bodies([{"num_images": 1}, {"num_images": 2}])
        outcomes = open_loop(server.url, bodies, [0.0, 0.01, 0.02])
    assert [outcome.number for outcome in outcomes] == [0, 1, 2]
    assert all(outcome.sent >= outcome.scheduled for outcome in outcomes)


def test_a_patient_client_comes_back_after_the_time_it_was_told(tmp_path: Path) -> None:
    with serving(echo(), tmp_path) as server:
        bodies = server.system.bodies([{"num_images": 7}])
        ((first, second),) = patient_open_loop(server.url, bodies, [0.0])
    assert (first.status, first.retry_after) == (429, 1.0)
    assert second.ok
    assert second.sent >= first.ended + 1.0


def test_a_system_that_does_not_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    broken = System("broken", lambda port: [sys.executable, "-c", "raise SystemExit('no model')"])
    with pytest.raises(SystemExit, match="no model"), serving(broken, tmp_path):
        pass


def test_what_a_system_started_ends_with_it(tmp_path: Path) -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    system = System("family", lambda port: [sys.executable, "-c", parent, ECHO, str(port)])
    with serving(system, tmp_path) as server:
        pass
    with pytest.raises(OSError, match="refused|reset"):
        urllib.request.urlopen(server.url, timeout=1)  # noqa: S310 (our own server)
