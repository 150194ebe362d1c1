from __future__ import annotations

import base64
import io
import json

import numpy as np
from PIL import Image

REQUEST = {"class_label": "seven", "num_images": 3, "seed": 42, "num_steps": 4}


def decode(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


async def test_json_has_the_documented_shape(front) -> None:
    answer = (await front.generate(**REQUEST)).json()
    assert list(answer) == ["id", "bank", "model", "images", "usage", "timings_ms"]
    image = answer["images"][1]
    (snippet,) = image.pop("snippets")
    assert snippet == {
        "row": snippet["row"],
        "source_id": snippet["row"] + 1000,
        "label": 7,
        "weight": 1.0,
    }
    assert decode(base64.b64decode(image.pop("b64_png"))).size == (8, 8)
    del image["replay"]
    assert image == {
        "index": 1, "seed": 42, "width": 8, "height": 8, "class_label": 7, "class_name": "seven",
    }  # fmt: skip


async def test_png_is_the_image_of_the_json_answer_byte_for_byte(front) -> None:
    request = {**REQUEST, "num_images": 1}
    png = await front.generate("image/png", **request)
    assert png.headers["Content-Type"] == "image/png"
    image = (await front.generate(**request)).json()["images"][0]
    assert png.content == base64.b64decode(image["b64_png"])


async def test_png_says_what_it_was_made_from(front) -> None:
    png = await front.generate("image/png", **{**REQUEST, "num_images": 1})
    text = decode(png.content).text
    facts = json.loads(text["gmem"])
    assert (facts["class_name"], facts["seed"], facts["sampler"]) == ("seven", 42, "heun")
    assert facts["bank"].startswith("digits@sha256-")
    again = await front.generate("image/png", replay=text["gmem-replay"])
    assert again.content == png.content
    assert png.headers["X-Gmem-Bank"] == "digits@1"
    assert png.headers["X-Gmem-Model"] == "digits@7"
    assert png.headers["X-Gmem-Seed"] == "42"
    assert "denoise;dur=" in png.headers["Server-Timing"]


async def test_several_images_as_png_are_a_grid_with_every_origin(front) -> None:
    sheet = decode((await front.generate("image/png", **REQUEST)).content)
    images = (await front.generate(**REQUEST)).json()["images"]
    assert sheet.size == (16, 16)
    first = np.asarray(decode(base64.b64decode(images[0]["b64_png"])))
    np.testing.assert_array_equal(np.asarray(sheet)[:8, :8], first)
    rows = [facts["row"] for facts in json.loads(sheet.text["gmem"])]
    assert rows == [image["snippets"][0]["row"] for image in images]


async def test_a_grid_is_the_same_bytes_every_time(front) -> None:
    sheets = [(await front.generate("image/png", **REQUEST)).content for _ in range(2)]
    assert sheets[0] == sheets[1]


async def test_png_of_a_guided_label_model_says_so_and_names_no_bank(front) -> None:
    png = await front.generate("image/png", model="sit", class_label=7, seed=42)
    facts = json.loads(decode(png.content).text["gmem"])
    assert (facts["class_label"], facts["class_name"]) == (7, "seven")
    assert facts["guidance_scale"] == 1.5
    assert not {"bank", "row", "source_id", "label"} & facts.keys()
    assert png.headers["X-Gmem-Guidance-Scale"] == "1.5"
    assert png.headers["X-Gmem-Model"] == "sit@3"
    assert "X-Gmem-Bank" not in png.headers


async def test_an_unguided_image_says_nothing_of_guidance(front) -> None:
    png = await front.generate("image/png", **{**REQUEST, "num_images": 1})
    assert "X-Gmem-Guidance-Scale" not in png.headers
    assert "guidance_scale" not in json.loads(decode(png.content).text["gmem"])
