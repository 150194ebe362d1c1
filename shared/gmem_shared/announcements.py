"""Word of mouth through Redis: that an alias moved, that a version is served now.

Whoever hears it looks at once instead of at the next poll. Looking is what counts: a message says
nothing but that it is worthwhile, and one that is lost costs at most one poll. Without a Redis
nothing is said, and this module does not import its client.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import structlog

from gmem_shared.settings import RedisSettings, Settings
from gmem_shared.store import Store

_log = structlog.get_logger(__name__)

Event = Literal["moved", "served"]
"""An alias was moved; a bank or engine has taken a version into use."""

_LISTEN_SECONDS = 0.5
_RETRY_SECONDS = 5.0


def announcing_store(settings: Settings) -> Store:
    """Return the store of the settings; that an alias was moved through it is announced."""
    return Store.from_settings(settings.store, moved=Announcer(settings.redis, "moved"))


class Announcer:
    """Announces an event each time it is called; never fails."""

    def __init__(self, settings: RedisSettings, event: Event) -> None:
        self._settings = settings
        self._event = event

    def __call__(self) -> None:
        """Announce it."""
        if self._settings.url == "memory://":
            return
        import redis  # most processes announce nothing

        try:
            with redis.Redis.from_url(**self._settings.client_options()) as client:
                client.publish(_channel(self._event), b"")
        except (redis.RedisError, OSError) as error:
            _log.warning("announcement.lost", event_name=self._event, error=str(error))


class Subscriber:
    """Calls a function on a thread of its own whenever an event was announced.

    It is called once at first, and again after every interruption: something may have been missed.

    Args:
        heard: Must not take long, and not fail.
    """

    def __init__(self, settings: RedisSettings, event: Event, heard: Callable[[], None]) -> None:
        self._settings = settings
        self._event = event
        self._heard = heard
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"listen-{event}", daemon=True)

    def start(self) -> None:
        """Begin to listen, if there is a Redis."""
        if self._settings.url != "memory://":
            self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        import redis  # see above

        while not self._stopped.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                _log.info("announcements.away", event_name=self._event, error=str(error))
                self._stopped.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        import redis  # see above

        with (
            redis.Redis.from_url(**self._settings.client_options()) as client,
            client.pubsub(ignore_subscribe_messages=True) as channel,
        ):
            channel.subscribe(_channel(self._event))
            self._heard()
            while not self._stopped.is_set():
                if channel.get_message(timeout=_LISTEN_SECONDS) is not None:
                    self._heard()


def _channel(event: Event) -> str:
    return f"gmem:{event}"
