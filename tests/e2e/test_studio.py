"""The studio page in a real browser, on the doubles: what people see, and that they can use it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from structlog.testing import capture_logs

from gmem_shared.errors import NotReadyError
from gmem_shared.types import ClassInfo
from tests.support.http_server import Served, served
from tests.support.keys import keys_file

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-quic",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def front() -> Iterator[Served]:
    with capture_logs(), served() as running:
        yield running


@pytest.fixture
def page(browser: Browser, front: Served) -> Iterator[Page]:
    """The loaded page; any script error or violated policy fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    opened.goto(front.url)
    yield opened
    context.close()
    assert complaints == []


def choose(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check()


def images(page: Page):
    return page.get_by_role("figure").get_by_role("img")


def test_images_appear_one_by_one_with_the_row_each_was_made_from(page, front) -> None:
    choose(page, "seven")
    page.get_by_label("Images").fill("3")
    front.backend.gate.passes = 2
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("2 of 3 images…")
    front.call(front.backend.gate.open.set)
    expect(images(page)).to_have_count(3)
    expect(page.get_by_role("status")).to_contain_text("3 images in")

    answer = httpx.post(
        f"{front.url}/generate", json={"class_label": 7, "num_images": 3, "seed": 42}
    ).json()
    for card, image in zip(page.get_by_role("figure").all(), answer["images"], strict=True):
        snippet = image["snippets"][0]
        expect(card).to_contain_text("seven")
        expect(card).to_contain_text(f"memory row {snippet['row']}")
        expect(card).to_contain_text(f"from image {snippet['source_id']}")
        expect(card).to_contain_text(f"seed 42 #{image['index']}")


def test_pixels_stay_pixels(page) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(8)
    picture = images(page).first
    expect(picture).to_have_css("image-rendering", "pixelated")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert picture.bounding_box()["width"] > 100


def test_the_versions_in_use_are_shown(page) -> None:
    expect(page.get_by_text("digits@7")).to_be_visible()
    expect(page.get_by_text("digits@1")).to_be_visible()


def choose_model(page: Page, name: str, version: str) -> None:
    page.get_by_label("Model").select_option(name)
    expect(page.get_by_text(version)).to_be_visible()


def test_a_label_model_shows_its_classes_and_guidance_and_no_memory(page, front) -> None:
    expect(page.get_by_role("slider", name="Guidance")).to_be_hidden()
    choose_model(page, "sit", "sit@3")
    expect(page.get_by_text("digits@1")).to_be_hidden()
    choose(page, "seven")
    page.get_by_role("slider", name="Guidance").fill("4")
    page.get_by_label("Images").fill("2")
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(2)
    (task,) = front.backend.tasks
    assert (task.labels.tolist(), task.guidance_scale) == ([7, 7], 4)
    heading = page.get_by_role("heading", level=2)
    expect(heading).to_have_text("sit · seven · seed 42 · heun, 16 steps · guidance 4")
    done = page.get_by_role("status").filter(has_text="2 images in")
    expect(done).not_to_contain_text("bank")
    card = page.get_by_role("figure").first
    expect(card).to_contain_text("seven")
    expect(card).not_to_contain_text("memory row")
    expect(card.get_by_role("button", name="Vary")).to_be_hidden()


def test_an_unconditional_model_offers_no_class(page, front) -> None:
    choose_model(page, "edm2", "edm2@2")
    expect(page.get_by_role("radio")).to_have_count(0)
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(8)
    assert front.backend.tasks[0].labels is None
    expect(page.get_by_role("heading", level=2)).to_contain_text("edm2 · seed 42")
    choose_model(page, "digits", "digits@1")
    expect(page.get_by_role("radio")).to_have_count(11)


def test_one_of_many_classes_is_found_by_typing(page, front) -> None:
    many = tuple(ClassInfo(i, f"breed {i}") for i in range(1000))
    front.backend.infos["sit"] = replace(front.backend.infos["sit"], classes=many)
    choose_model(page, "sit", "sit@3")
    page.get_by_role("searchbox", name="Find a class").fill("BREED 77")
    expect(page.get_by_role("radio")).to_have_count(11)
    page.set_viewport_size({"width": 1280, "height": 500})
    assert page.locator(".panel").bounding_box()["height"] < 500
    choose(page, "breed 777")
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(8)
    assert set(front.backend.tasks[0].labels.tolist()) == {777}


def test_an_image_is_varied_with_the_model_that_made_it(page, front) -> None:
    page.get_by_label("Images").fill("1")
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(1)
    choose_model(page, "sit", "sit@3")
    page.get_by_role("button", name="Vary").click()
    expect(images(page)).to_have_count(2)
    assert {task.model.split("@")[0] for task in front.backend.tasks} == {"digits"}


def test_again_takes_a_new_seed_and_vary_the_same_row(page, front) -> None:
    page.get_by_label("Images").fill("2")
    page.get_by_role("button", name="Again").click()
    expect(images(page)).to_have_count(2)
    assert front.backend.tasks[-1].seeds[0] != 42
    row = int(front.backend.tasks[-1].snippets[0, 0])
    page.get_by_role("button", name="Vary").first.click()
    expect(images(page)).to_have_count(4)
    assert front.backend.tasks[-1].snippets[:, 0].tolist() == [row, row]


def test_the_copied_command_makes_the_very_image(page, front) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(8)
    card = page.get_by_role("figure").nth(3)
    card.get_by_role("button", name="curl").click()
    expect(page.get_by_role("status")).to_contain_text("Copied")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words[:2] == ["curl", f"{front.url}/generate"]
    body = json.loads(words[words.index("-d") + 1])
    again = httpx.post(words[1], json=body, headers={"Accept": "image/png"})
    with page.expect_download() as download:
        card.get_by_role("link", name="PNG").click()
    assert download.value.path().read_bytes() == again.content
    assert re.fullmatch(r"\w+-row\d+-seed42-3\.png", download.value.suggested_filename)


def test_a_problem_is_told_in_words_and_the_page_goes_on(page, front) -> None:
    front.backend.fail_after = (0, NotReadyError("the engine is away", retry_after_seconds=3))
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("the engine is away")
    expect(page.get_by_role("alert")).to_contain_text("Try again in 3 s")
    expect(images(page)).to_have_count(0)
    front.backend.fail_after = None
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(8)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_page_opened_too_early_fills_itself_when_the_server_is_ready(browser, front) -> None:
    front.bank.gate.failure = NotReadyError("the bank is loading", retry_after_seconds=0.1)
    early = browser.new_page()
    early.goto(front.url)
    expect(early.get_by_role("alert")).to_contain_text("the bank is loading")
    expect(early.get_by_role("button", name="Generate")).to_be_disabled()
    front.bank.gate.failure = None
    expect(early.get_by_role("radio")).to_have_count(11)
    expect(early.get_by_role("alert")).to_be_hidden()
    early.close()


def test_stop_stops_the_engine(page, front) -> None:
    front.backend.gate.passes = 1
    page.get_by_role("button", name="Generate").click()
    expect(images(page)).to_have_count(1)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("figure")).to_have_count(1)
    expect(page.get_by_role("button", name="Again")).to_be_visible()
    front.call(front.backend.gate.open.set)
    assert len(front.backend.tasks) == 1


def test_everything_works_without_a_mouse(page, front) -> None:
    expect(page.get_by_role("radio")).to_have_count(11)
    page.get_by_role("radio", name="any").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="zero")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(images(page)).to_have_count(2)
    expect(images(page).first).to_have_attribute("alt", re.compile("zero, made from memory row"))


def test_invalid_numbers_are_stopped_by_the_form(page, front) -> None:
    page.get_by_label("Steps").fill("0")
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_label("Steps").evaluate("field => field.validity.rangeUnderflow")
    assert not front.backend.tasks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser, front, scheme) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    phone = context.new_page()
    phone.goto(front.url)
    phone.get_by_role("button", name="Generate").click()
    expect(images(phone)).to_have_count(8)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_reference_lists_every_operation_and_unfolds_a_schema(page, front) -> None:
    page.get_by_role("link", name="API").click()
    document = httpx.get(f"{front.url}/openapi.json").json()
    operations = sum(map(len, document["paths"].values()))
    expect(page.locator("#operations details")).to_have_count(operations)
    page.get_by_role("link", name="GenerateRequest").first.click()
    expect(page.get_by_text("num_images?")).to_be_visible()


def test_where_keys_are_asked_for_the_page_asks_for_one_and_keeps_it(browser, tmp_path) -> None:
    scopes = {"scopes": ["generate", "read"]}
    key = keys_file(tmp_path / "keys.json", alice=scopes)["alice"]
    security = {"api_keys_file": tmp_path / "keys.json"}
    with capture_logs(), served(security=security) as locked:
        context = browser.new_context()
        page = context.new_page()
        page.goto(locked.url)
        for entered in ("gmem_wrong", key):
            expect(page.get_by_role("alert")).to_contain_text("API key")
            page.get_by_label("API key").fill(entered)
            page.get_by_role("button", name="Use").click()
        expect(page.get_by_role("radio")).to_have_count(11)
        expect(page.get_by_label("API key")).to_be_hidden()
        page.get_by_role("button", name="Generate").click()
        expect(images(page)).to_have_count(8)
        page.reload()
        expect(page.get_by_role("radio")).to_have_count(11)
        assert key not in page.url
        context.close()
