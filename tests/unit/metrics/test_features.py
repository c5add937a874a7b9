import hashlib
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn

from realuid_lightning.data import to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import (
    Features,
    InceptionFeatures,
    RawFeatures,
    feature_fingerprint,
    feature_label,
    to_bytes,
)


class Scaled(Features):
    """Features with a setting that is no weight."""

    num_features = 2
    label = "scaled"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Linear(2, 2)
        nn.init.eye_(self.layer.weight)


def plain(*layers):
    module = nn.Sequential(*layers)
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    return module


def test_bytes_are_the_nearest_levels():
    x = torch.tensor([-1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 1.0, -7.0, 7.0, -1 / 255])
    assert to_bytes(x).tolist() == [0, 0, 1, 255, 255, 0, 255, 127]
    assert to_bytes(x).dtype == torch.uint8
    assert to_bytes(x.bfloat16()).dtype == torch.uint8
    assert x[0] == -1  # the samples themselves are left alone


def test_no_level_stands_for_nan():
    with pytest.raises(UserError, match=r"NaN among them.*diverged"):
        to_bytes(torch.tensor([0.0, torch.nan]))


def test_every_byte_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_bytes(to_floats(levels)), levels)


def test_raw_features_are_the_values():
    features = RawFeatures([1, 8, 8])
    x = torch.randn(5, 1, 8, 8)
    assert features.num_features == 64
    assert torch.equal(features(x), x.view(5, 64).double())
    assert feature_label(features) == "raw values (64)"
    assert feature_label(nn.Flatten()) == "Flatten"


def test_the_fingerprint_depends_on_weights():
    one, two = plain(nn.Linear(2, 2)), plain(nn.Linear(2, 2))
    assert feature_fingerprint(one) == feature_fingerprint(two)
    with torch.no_grad():
        two[0].weight[0, 0] += 1e-6
    assert feature_fingerprint(one) != feature_fingerprint(two)


def test_the_fingerprint_depends_on_settings_and_layers():
    assert feature_fingerprint(Scaled(1.0)) != feature_fingerprint(Scaled(2.0))
    assert feature_fingerprint(RawFeatures([2])) != feature_fingerprint(RawFeatures([3]))
    assert feature_fingerprint(plain(nn.Linear(2, 2))) != feature_fingerprint(plain(nn.Linear(2, 2), nn.ReLU()))
    assert feature_fingerprint(plain(nn.ReLU())) != feature_fingerprint(plain(nn.LeakyReLU(0.5)))


def test_the_fingerprint_takes_every_type_of_tensor():
    module = nn.Linear(2, 2).bfloat16()
    module.register_buffer("flag", torch.tensor(True))
    module.register_buffer("none", torch.zeros(0))
    first = feature_fingerprint(module)
    module.flag.fill_(False)
    assert feature_fingerprint(module) != first


class StandIn(nn.Module):
    """Takes the place of torchmetrics' network, and notes how it was asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.asked = (args, kwargs)

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x[:, :, 0, 0].float()


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """A file of weights for the stand-in; its name ends in its hash."""
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", StandIn)
    return named_by_hash({"weight": torch.arange(3.0)}, tmp_path)


def named_by_hash(content, folder):
    torch.save(content, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    return (folder / "new.pth").rename(folder / f"inception-{digest[:8]}.pth")


def test_inception_sees_bytes_of_three_channels_and_tensorflows_resize(inception):
    features = InceptionFeatures(str(inception))
    features.prepare()
    features.prepare()
    args, options = features.network.asked
    assert args[:2] == ("inception-v3-compat", ["2048"])
    assert torch.load(args[2])["weight"].tolist() == [0, 1, 2]  # what is unpickled is what we have written
    assert options == {"antialias": False}  # torchmetrics' default is not the resize of the published figures
    grey = torch.tensor([0.999, -1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert features(grey).tolist() == [[255.0] * 3, [0.0] * 3]
    assert features(grey.expand(2, 3, 4, 4)).dtype == torch.float64


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_sample_that_is_not_finite_has_no_inception_features(inception, value):
    features = InceptionFeatures(str(inception))
    features.prepare()
    x = torch.zeros(3, 1, 4, 4)
    x[1, 0, 2, 2] = value
    assert features(x).isnan().all(1).tolist() == [False, True, False]


def test_weights_are_the_same_wherever_they_lie(inception, tmp_path):
    prints = set()
    for place in ("here.pth", "there.pth"):
        (tmp_path / place).write_bytes(inception.read_bytes())
        features = InceptionFeatures(str(tmp_path / place))
        features.prepare()
        prints.add(feature_fingerprint(features))
    assert len(prints) == 1


def test_a_missing_weights_file_is_told_with_its_option(tmp_path):
    with pytest.raises(UserError) as caught:
        InceptionFeatures(str(tmp_path / "absent.pth")).prepare()
    for word in ("absent.pth failed", "--features.weights", "weights-inception-2015-12-05", "RawFeatures"):
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_broken_weights_file_is_told_with_its_option(tmp_path, content):
    file = tmp_path / "broken.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"broken.pth failed.*--features.weights"):
        InceptionFeatures(str(file)).prepare()


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_weights_file_runs_nothing_whatever_its_name(inception, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"weight": Trap()}, tmp_path / "trap.pth")
    digest = hashlib.sha256((tmp_path / "trap.pth").read_bytes()).hexdigest()
    (tmp_path / f"trap-{digest[:8]}.pth").write_bytes((tmp_path / "trap.pth").read_bytes())
    for name in ("trap.pth", f"trap-{digest[:8]}.pth"):
        with pytest.raises(UserError, match=r"no file of weights, or holds objects that could run code"):
            InceptionFeatures(name).prepare()
    assert not Path("sprung").exists()


def test_a_weights_file_is_the_one_that_its_name_says(inception, tmp_path, caplog):
    other = named_by_hash({"weight": torch.zeros(3)}, tmp_path)
    inception.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"its SHA-256 is .*, not what the name says of .*inception-"):
        InceptionFeatures(str(inception)).prepare()
    with caplog.at_level("INFO"):
        InceptionFeatures(str(other)).prepare()
        assert not caplog.messages
        InceptionFeatures(str(other.rename(tmp_path / "renamed.pth"))).prepare()
    digest = hashlib.sha256((tmp_path / "renamed.pth").read_bytes()).hexdigest()
    assert f"renamed.pth has the SHA-256 {digest}" in caplog.text


def test_the_download_is_checked_and_kept(inception, tmp_path, monkeypatch):
    asked = []

    def download(url, target, progress):
        asked.append(url)
        Path(target).write_bytes(inception.read_bytes())

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    with pytest.raises(UserError, match=r"its SHA-256 is .*, not what the name says"):  # a poisoned one
        InceptionFeatures().prepare()
    monkeypatch.setattr("realuid_lightning.metrics.inception.INCEPTION_FILE", inception.name)
    for _ in range(2):
        InceptionFeatures().prepare()
    assert len(asked) == 2
    assert asked[0].startswith("https://github.com/toshas/torch-fidelity/releases")


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), AssertionError(), OSError("two\nlines")])
def test_a_failing_download_is_told_with_the_option(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(UserError, match="the download failed") as caught:
        InceptionFeatures().prepare()
    assert "--features.weights" in str(caught.value)
    assert "\n" not in str(caught.value)
