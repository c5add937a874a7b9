from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from realuid_lightning import atomic
from realuid_lightning.metrics import FeatureStatistics, Reference, ReferenceCache, Sample


def reference(seed=0):
    rng = torch.Generator().manual_seed(seed)
    total, outer = torch.randn(3, generator=rng).double(), torch.randn(3, 3, generator=rng).double()
    sums = FeatureStatistics(total, outer, torch.tensor(7))
    sample = Sample(sums, torch.randn(5, 3, generator=rng).double(), torch.empty(7, 0))
    return Reference(sample, {"fid": 0.1 + 0.2}, {"fid": float("nan")}, 7)


def with_sums(**changes):
    known = reference()
    return known._replace(sample=known.sample._replace(sums=known.sample.sums._replace(**changes)))


def equal(one, two):
    parts = [[*each.sample.sums, each.sample.vectors, each.sample.logits] for each in (one, two)]
    tensors = all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(*parts, strict=True))
    return tensors and str(one[1:]) == str(two[1:])


def test_what_was_written_is_read(tmp_path):
    cache = ReferenceCache(str(tmp_path / "new" / "folder"))
    assert cache.read("protocol", 3) is None
    cache.write("protocol", reference())
    assert equal(cache.read("protocol", 3), reference())
    assert equal(ReferenceCache(str(tmp_path / "new" / "folder")).read("protocol", 3), reference())
    cache.write("protocol", reference(1))
    assert equal(cache.read("protocol", 3), reference(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_made_anew(tmp_path, value):
    cache = ReferenceCache(str(tmp_path))
    for part in ("total", "outer"):
        broken = reference()
        getattr(broken.sample.sums, part)[1] = value
        cache.write("protocol", broken)
        assert cache.read("protocol", 3) is None


def test_statistics_of_another_width_or_of_one_sample_are_made_anew(tmp_path):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", reference())
    assert cache.read("protocol", 2) is None
    cache.write("protocol", with_sums(count=torch.tensor(1)))
    assert cache.read("protocol", 3) is None


def test_each_protocol_has_its_own_file(tmp_path):
    cache = ReferenceCache(str(tmp_path))
    cache.write("one", reference())
    assert cache.read("two", 3) is None
    assert cache.file("one") != cache.file("two")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_format_reads_no_old_file(tmp_path, monkeypatch):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", reference())
    monkeypatch.setattr("realuid_lightning.metrics.reference.FORMAT", 1000)
    assert cache.read("protocol", 3) is None


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_broken_file_is_made_anew(tmp_path, keep):
    cache = ReferenceCache(str(tmp_path))
    cache.write("protocol", reference())
    file = cache.file("protocol")
    file.write_bytes(file.read_bytes()[:keep])
    assert cache.read("protocol", 3) is None
    cache.write("protocol", reference())
    assert equal(cache.read("protocol", 3), reference())


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
    with pytest.warns(UserWarning, match="not kept .*--cache"):
        cache.write("protocol", reference())
    assert cache.read("protocol", 3) is None


def test_a_disk_that_refuses_costs_a_warning_and_no_run(tmp_path, monkeypatch):
    """As safetensors tells of a full one: by an error of its own."""

    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(atomic, "save_file", fail)
    with pytest.warns(UserWarning, match=r"not kept .*No space left .*--cache"):
        ReferenceCache(str(tmp_path)).write("protocol", reference())
    assert not list(tmp_path.iterdir())
