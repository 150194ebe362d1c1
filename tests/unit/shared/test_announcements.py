from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gmem_shared.announcements import Announcer, Subscriber
from gmem_shared.settings import RedisSettings
from tests.support.redis import redis_server

NOBODY = RedisSettings(url="redis://127.0.0.1:9/0", timeout_seconds=0.2)


def test_without_a_redis_nothing_is_said_or_heard() -> None:
    heard = threading.Event()
    subscriber = Subscriber(RedisSettings(), "moved", heard.set)
    subscriber.start()
    Announcer(RedisSettings(), "moved")()
    subscriber.close()
    assert not heard.is_set()


def test_without_a_redis_its_client_is_not_imported() -> None:
    code = (
        "import sys; from gmem_shared.announcements import Announcer; "
        "from gmem_shared.settings import RedisSettings; "
        "Announcer(RedisSettings(), 'moved')(); assert 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_redis_that_is_away_fails_nobody() -> None:
    with capture_logs() as logged:
        Announcer(NOBODY, "moved")()
    assert [event["event"] for event in logged] == ["announcement.lost"]
    subscriber = Subscriber(NOBODY, "moved", lambda: None)
    subscriber.start()
    subscriber.close()


@pytest.mark.redis
def test_what_is_announced_is_heard_at_once_and_again_after_an_interruption(tmp_path: Path) -> None:
    with capture_logs(), redis_server(tmp_path) as server:
        settings = RedisSettings(url=server.url)
        times: list[float] = []
        subscriber = Subscriber(settings, "moved", lambda: times.append(time.monotonic()))
        subscriber.start()

        def wait_for(count: int) -> None:
            end = time.monotonic() + 10
            while len(times) < count:
                assert time.monotonic() < end
                time.sleep(0.005)

        wait_for(1)  # it looks when it begins
        Announcer(settings, "served")()
        began = time.monotonic()
        Announcer(settings, "moved")()
        wait_for(2)
        assert times[1] - began < 0.3
        server.kill()
        server.start()
        wait_for(3)
        subscriber.close()
