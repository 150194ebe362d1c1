"""The images are of the class that was asked for, and not copies of the training set."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from gmem_shared.store import Store

PER_CLASS = 100


def pixels(answer: dict) -> np.ndarray:
    images = [Image.open(io.BytesIO(base64.b64decode(i["b64_png"]))) for i in answer["images"]]
    return np.stack([np.asarray(image.convert("L"), np.float32).ravel() for image in images])


def test_98_percent_of_a_thousand_images_show_the_class_asked_for(stack) -> None:
    digits = load_digits()
    classifier = SVC(gamma=0.001, C=10).fit(digits.data, digits.target)
    correct = 0
    for label in range(10):
        answer = stack.generate(class_label=label, num_images=PER_CLASS, seed=1000 + label)
        shown = classifier.predict(pixels(answer) / 255.0 * 16.0)
        correct += int((shown == label).sum())
    assert correct >= 0.98 * 10 * PER_CLASS, f"{correct} of {10 * PER_CLASS}"


def test_the_published_evaluation_is_healthy(digits_store: Path, tmp_path: Path) -> None:
    repository = Store.from_url(str(digits_store), cache_dir=tmp_path).repository(
        "models", "digits"
    )
    opened = repository.open(repository.resolve("production"))
    report = json.loads(opened.path("evaluation.json").read_text())["test"]
    assert report["class_accuracy"] >= 0.98
    assert report["nn_ratio"] >= 0.90
    assert report["copy5"] <= 0.08
    assert report["recall"] >= 0.8
