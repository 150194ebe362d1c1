import json

import numpy as np
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.cli import app


def evaluate(*arguments: object) -> Result:
    with capture_logs():
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result


def test_scores_are_shown_and_kept(npz, pictures, folder, tmp_path) -> None:
    samples, result = npz(pictures), tmp_path / "scores.json"
    shown = evaluate(
        samples, "--reference", folder, "--features", "pixels", "--batch-size", 7, "--json", result
    ).stdout
    assert "23 images" in shown
    assert "Fréchet distance (pixels)" in shown
    assert "FID" not in shown
    kept = json.loads(result.read_text())
    assert kept["frechet"] == pytest.approx(0, abs=1e-6)
    assert (kept["precision"], kept["recall"]) == (1.0, 1.0)
    assert (kept["features"], kept["samples"]) == ("pixels", str(samples))


def test_digits_have_an_inception_score_of_their_own(npz) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    shown = evaluate(npz(images), "--reference", npz(images), "--features", "digits").stdout
    assert "Inception Score (digits)" in shown


def test_inception_without_weights_is_refused(npz, pictures) -> None:
    with pytest.raises(InvalidRequestError, match="--weights"):
        evaluate(npz(pictures), "--reference", npz(pictures))
