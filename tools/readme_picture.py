"""Make the README's picture from a running service: ``python tools/readme_picture.py URL FILE``.

One row per class, ten images each, through ``POST /generate`` with seed 0.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import urllib.request

from PIL import Image

SCALE, GAP, PER_CLASS = 5, 1, 10


def request(url: str, body: dict[str, object] | None = None) -> dict[str, list[dict[str, str]]]:
    """GET a URL, or POST a JSON body to it."""
    data = None if body is None else json.dumps(body).encode()
    message = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(message, timeout=60) as answer:  # noqa: S310
        found: dict[str, list[dict[str, str]]] = json.load(answer)
    return found


def main() -> None:
    """Compose the picture."""
    url, target = sys.argv[1:]
    rows = []
    for info in request(f"{url}/classes")["classes"]:
        body: dict[str, object] = {
            "class_label": info["id"],
            "num_images": PER_CLASS,
            "seed": 0,
        }
        made = request(f"{url}/generate", body)["images"]
        rows.append([Image.open(io.BytesIO(base64.b64decode(i["b64_png"]))) for i in made])
    width, height = rows[0][0].size
    picture = Image.new("L", (len(rows) * (width + GAP), PER_CLASS * (height + GAP)), 255)
    for column, images in enumerate(rows):
        for line, image in enumerate(images):
            picture.paste(image, (column * (width + GAP), line * (height + GAP)))
    size = (picture.width * SCALE, picture.height * SCALE)
    picture.resize(size, Image.Resampling.NEAREST).save(target, optimize=True)


if __name__ == "__main__":
    main()
