"""The page of settings says what the settings are."""

from __future__ import annotations

from gmem_shared.settings import Settings
from tools import settings_page


def test_the_page_is_written_from_the_settings() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run: make settings-page"


def test_every_setting_says_what_it_means() -> None:
    silent = [
        f"{name}.{option}"
        for name, section in Settings.model_fields.items()
        for option, field in section.annotation.model_fields.items()
        if not field.description
    ]
    assert silent == []
