import io
import zipfile

import numpy as np
import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.metrics import FID, RawFeatures, Sample, write_moments


def rows(count, shift=0.0, seed=0):
    return shift + torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zipped(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def test_published_moments_stand_in_for_the_reference(tmp_path):
    real, other, generated = Sample.of(rows(50)), Sample.of(rows(60, 3.0, 1)), Sample.of(rows(40, 1.0, 2))
    write_moments(tmp_path / "real.npz", real.sums)
    metric = FID(str(tmp_path / "real.npz"))
    assert metric.compute(other, generated) == pytest.approx(FID().compute(real, generated), rel=1e-9)
    assert metric.fault(RawFeatures([4]), 40) is None
    assert "statistics of 5 features, but those of the file have 4" in metric.fault(RawFeatures([5]), 40)


def test_others_read_what_is_written(tmp_path):
    values = rows(30)
    write_moments(tmp_path / "real.npz", Sample.of(values).sums)
    with np.load(tmp_path / "real.npz") as arrays:
        np.testing.assert_allclose(arrays["mu"], values.mean(0).numpy(), rtol=1e-12)
        np.testing.assert_allclose(arrays["sigma"], np.cov(values.numpy(), rowvar=False), rtol=1e-12)
    assert [file.name for file in tmp_path.iterdir()] == ["real.npz"]


DAMAGED = zipped("mu.npy", b"\x93NUMPY\x01\x00v\x00" + b"{" + b"(" * 117)  # a header that is never closed

FINE = {"mu": np.zeros(3), "sigma": np.eye(3)}


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"mu": np.zeros(3)}, "must be an .npz file of numbers mu and sigma"),
        ({**FINE, "sigma": np.eye(2)}, r"must have shapes \(F,\) and \(F, F\), got \(3,\) and \(2, 2\)"),
        ({**FINE, "mu": np.zeros((3, 1))}, "must have shapes"),
        ({**FINE, "mu": np.full(3, np.nan)}, "must be finite numbers"),
        ({**FINE, "sigma": np.triu(np.ones((3, 3)))}, "sigma symmetric"),
        ({**FINE, "mu": np.array([object()] * 3)}, "must be an .npz file of numbers"),
        ({**FINE, "mu": np.array(["a", "b", "c"])}, "must be an .npz file of numbers"),
        ({**FINE, "mu": np.zeros(3, complex)}, "must be an .npz file of numbers .*complex128"),
        ({**FINE, "sigma": np.diag([1.0, 2.0, -0.1])}, "must be a covariance, but has the eigenvalue -0.1 beside 2"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, told):
    np.savez(tmp_path / "it.npz", **arrays)
    with pytest.raises(UserError, match=told):
        FID(str(tmp_path / "it.npz"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut", DAMAGED])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    (tmp_path / "it.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"must be an .npz file"):
        FID(str(tmp_path / "it.npz"))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"absent.npz cannot be read: No such file"):
        FID(str(tmp_path / "absent.npz"))
