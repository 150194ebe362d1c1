from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import Settings, read_settings


def test_the_environment_sets_a_nested_value(monkeypatch) -> None:
    monkeypatch.setenv("GMEM_STORE__URL", "s3://bucket/prefix")
    monkeypatch.setenv("GMEM_GENERATOR__PORT", "9000")
    settings = Settings()
    assert settings.store.url == "s3://bucket/prefix"
    assert settings.generator.port == 9000


@pytest.mark.parametrize(
    ("name", "value"),
    [("GMEM_GENERATOR__PORT", "99999"), ("GMEM_STORE__TYPO", "x"), ("GMEM_LOG__LEVEL", "loud")],
)
def test_a_bad_value_or_unknown_name_stops_the_start(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GMEM_GENERATOR__PORT", "99999", "GMEM_GENERATOR__PORT: Input should be less than"),
        ("GMEM_STORE__URI", "x", "GMEM_STORE__URI is not a setting; did you mean GMEM_STORE__URL?"),
        ("GMEM_STOER__URL", "x", "GMEM_STOER__URL is not a setting; did you mean GMEM_STORE__URL?"),
        (
            "GMEM_SECURITY_API_KEYS_FILE",
            "keys.json",
            "GMEM_SECURITY_API_KEYS_FILE is not a setting; "
            "did you mean GMEM_SECURITY__API_KEYS_FILE?",
        ),
        ("GMEM_GENERATOR_PORT", "9000", "not a setting; did you mean GMEM_GENERATOR__PORT?"),
        ("GMEM_GENERATOR_TRITON_ADDRESS", "tcp://t:8201", "did you mean GMEM_GENERATOR__TRITON_"),
        ("gmem_redis_url", "redis://r", "not a setting; did you mean GMEM_REDIS__URL?"),
        ("GMEM__STORE__URL", "x", "not a setting; did you mean GMEM_STORE__URL?"),
        ("GMEM_PAGE__COLOUR", "x", "not a setting; docs/operations/configure.md lists them"),
        ("GMEM_SECURITY__TLS_CERT_FILE", __file__, "GMEM_SECURITY: Value error, expected both"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_of_the_variable(
    monkeypatch, name, value, sentence
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequestError, match=re.escape(sentence)):
        read_settings()


def test_everything_wrong_is_said_at_once(monkeypatch) -> None:
    monkeypatch.setenv("GMEM_STOER__URL", "x")
    monkeypatch.setenv("GMEM_GENERATOR__PORT", "none")
    with pytest.raises(InvalidRequestError, match=r"PORT: .*; GMEM_STOER__URL"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [  # the first six are what Kubernetes makes of services
        ("GMEM_BANK_PORT", "tcp://10.0.0.7:8100"),
        ("GMEM_GENERATOR_PORT", "tcp://10.0.0.7:8000"),
        ("GMEM_BANK_HTTP_PORT", "tcp://10.0.0.7:8100"),
        ("GMEM_GENERATOR_SERVICE_HOST", "10.0.0.7"),
        ("GMEM_GENERATOR_SERVICE_PORT", "8000"),
        ("GMEM_GENERATOR_PORT_8000_TCP_PORT", "8000"),
        ("GMEM_KEY", "gmem_…"),
    ],
)
def test_variables_of_others_with_our_prefix_are_left_alone(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    assert read_settings() == Settings()


def test_settings_do_not_change_after_start() -> None:
    with pytest.raises(ValidationError):
        Settings().store.url = "elsewhere"


def test_every_setting_says_what_it_means() -> None:
    for section in Settings.model_fields:
        for name, field in getattr(Settings(), section).__class__.model_fields.items():
            assert field.description, f"{section}.{name} has no description"


def test_the_password_of_redis_is_read_from_its_file(tmp_path) -> None:
    (tmp_path / "password").write_text("secret\n")
    redis = Settings(redis={"password_file": tmp_path / "password"}).redis
    assert redis.client_options()["password"] == "secret"
    assert "secret" not in repr(redis)
    assert Settings().redis.client_options()["password"] is None
