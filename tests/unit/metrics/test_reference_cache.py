from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from realuid_lightning import atomic
from realuid_lightning.metrics import FeatureStatistics, RawFeatures, ReferenceCache, feature_statistics

CPU = torch.device("cpu")


def statistics(seed=0):
    rng = torch.Generator().manual_seed(seed)
    total, outer = torch.randn(3, generator=rng).double(), torch.randn(3, 3, generator=rng).double()
    return FeatureStatistics(total, outer, torch.tensor(7))


def equal(one, two):
    return all(map(torch.equal, one, two)) and all(a.dtype == b.dtype for a, b in zip(one, two, strict=True))


def test_statistics_are_sums_over_all_vectors():
    x = torch.randn(10, 2, 2, generator=torch.Generator().manual_seed(0))
    found = feature_statistics(RawFeatures([2, 2]), x.split(3), 4, CPU)
    rows = x.view(10, 4).double()
    torch.testing.assert_close(found.total, rows.sum(0))
    torch.testing.assert_close(found.outer, rows.T @ rows)
    assert found.count == 10
    assert not any(part.requires_grad for part in feature_statistics(nn.Linear(2, 3), [torch.randn(4, 2)], 3, CPU))


def test_without_batches_all_are_zero():
    found = feature_statistics(RawFeatures([4]), [], 4, CPU)
    assert equal(found, FeatureStatistics(torch.zeros(4).double(), torch.zeros(4, 4).double(), torch.tensor(0)))


def test_what_was_written_is_read(tmp_path):
    cache = ReferenceCache(str(tmp_path / "new" / "folder"))
    assert cache.read("protocol", 3) is None
    cache.write("protocol", statistics())
    assert equal(cache.read("protocol", 3), statistics())
    assert equal(ReferenceCache(str(tmp_path / "new" / "folder")).read("protocol", 3), statistics())
    cache.write("protocol", statistics(1))
    assert equal(cache.read("protocol", 3), statistics(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_made_anew(tmp_path, value):
    cache = ReferenceCache(str(tmp_path))
    for part in ("total", "outer"):
        broken = statistics()
        getattr(broken, part)[1] = value
        cache.write("protocol", broken)
        assert cache.read("protocol", 3) is None


def test_statistics_of_another_width_or_of_one_sample_are_made_anew(tmp_path):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", statistics())
    assert cache.read("protocol", 2) is None
    cache.write("protocol", statistics()._replace(count=torch.tensor(1)))
    assert cache.read("protocol", 3) is None


def test_each_protocol_has_its_own_file(tmp_path):
    cache = ReferenceCache(str(tmp_path))
    cache.write("one", statistics())
    assert cache.read("two", 3) is None
    assert cache.file("one") != cache.file("two")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_format_reads_no_old_file(tmp_path, monkeypatch):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", statistics())
    monkeypatch.setattr("realuid_lightning.metrics.reference.FORMAT", 1000)
    assert cache.read("protocol", 3) is None


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_broken_file_is_made_anew(tmp_path, keep):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", statistics())
    file = cache.file("protocol")
    file.write_bytes(file.read_bytes()[:keep])
    assert cache.read("protocol", 3) is None
    cache.write("protocol", statistics())
    assert equal(cache.read("protocol", 3), statistics())


def test_the_folder_is_the_users_cache_unless_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ReferenceCache().folder == tmp_path / "realuid_lightning"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert ReferenceCache().folder == tmp_path / ".cache" / "realuid_lightning"
    assert ReferenceCache("~/mine").folder == tmp_path / "mine"
    assert ReferenceCache("mine").folder == Path("mine")


def test_a_folder_that_can_not_be_written_to_costs_a_warning(tmp_path):
    (tmp_path / "file").touch()
    cache = ReferenceCache(str(tmp_path / "file" / "cache"))
    statistics = FeatureStatistics(torch.zeros(2), torch.zeros(2, 2), torch.tensor(3))
    with pytest.warns(UserWarning, match="not kept .*--fid.cache"):
        cache.write("protocol", statistics)
    assert cache.read("protocol", 3) is None


def test_a_disk_that_refuses_costs_a_warning_and_no_run(tmp_path, monkeypatch):
    """As safetensors tells of a full one: by an error of its own."""

    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(atomic, "save_file", fail)
    with pytest.warns(UserWarning, match=r"not kept .*No space left .*--fid\.cache"):
        ReferenceCache(str(tmp_path)).write("protocol", statistics())
    assert not list(tmp_path.iterdir())
