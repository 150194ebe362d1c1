import numpy as np
import pytest

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.reference import open_reference
from tests.support.canary import Canary

MOMENTS = {"mu": np.arange(3.0), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(2) * 4}


def test_a_file_of_adm_gives_statistics_and_images(npz, pictures) -> None:
    reference = open_reference(npz(pictures, **MOMENTS))
    assert reference.pooled.mean.tolist() == [0, 1, 2]
    assert reference.spatial.covariance.tolist() == [[4, 0], [0, 4]]
    assert len(reference.images) == 23


def test_statistics_suffice(npz) -> None:
    reference = open_reference(npz(mu=MOMENTS["mu"], sigma=MOMENTS["sigma"]))
    assert reference.images is None
    assert reference.spatial is None


def test_images_suffice(npz, pictures, folder) -> None:
    for path in (npz(pictures), folder):
        reference = open_reference(path)
        assert len(reference.images) == 23
        assert reference.pooled is None


def test_anything_else_is_refused(tmp_path, npz) -> None:
    (tmp_path / "stats.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidRequestError, match="expected an npz file"):
        open_reference(tmp_path / "stats.pkl")
    with pytest.raises(InvalidRequestError, match="expected 'mu' and 'sigma'"):
        open_reference(npz(mu_s=np.zeros(2)))


def test_statistics_of_odd_shapes_are_refused(npz) -> None:
    with pytest.raises(InvalidRequestError, match=r"\(3,\) and \(2, 2\)"):
        open_reference(npz(mu=np.zeros(3), sigma=np.eye(2)))


def test_a_reference_executes_nothing(tmp_path, npz) -> None:
    hostile = npz(mu=np.array([Canary(tmp_path / "executed")], dtype=object), sigma=np.eye(1))
    with pytest.raises(InvalidRequestError, match="not executed"):
        open_reference(hostile)
    assert not (tmp_path / "executed").exists()
