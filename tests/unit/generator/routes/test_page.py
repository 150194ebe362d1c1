from __future__ import annotations

import re

import pytest

from gmem_generator.routes.page import WEB


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_loads_only_its_own_assets_and_holds_no_inline_code(front, path) -> None:
    page = await front.client.get(path)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page.text)
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(link.startswith("/") and not link.startswith("//") for link in links)
    for link in links:
        assert (await front.client.get(link)).status_code == 200, link


@pytest.mark.parametrize(
    ("suffix", "media_type"),
    [(".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")],
)
async def test_every_asset_is_served_with_its_type(front, suffix, media_type) -> None:
    found = [path for path in WEB.iterdir() if path.suffix == suffix]
    assert found
    for path in found:
        answer = await front.client.get(f"/web/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["Content-Type"].startswith(media_type)


async def test_pages_are_revalidated_so_that_an_update_is_seen(front) -> None:
    assert (await front.client.get("/")).headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/web/", "/web/../app.py", "/web/%2e%2e/app.py"])
async def test_nothing_outside_the_folder_is_served(front, path) -> None:
    assert (await front.client.get(path)).status_code == 404
