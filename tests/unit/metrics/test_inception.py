"""InceptionFeatures against torchmetrics and torch-fidelity: their real network, with random weights."""

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from realuid_lightning.data import to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import InceptionFeatures, feature_fingerprint
from realuid_lightning.metrics.features import truncated_to_bytes

LEVELS = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr("torch.load", lambda *_, **__: None)
        state = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "none").state_dict()
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({name: 6**0.5 * value if value.ndim == 4 else value for name, value in state.items()}, file)  # no fading
    return str(file)


def ready(weights, protocol):
    features = InceptionFeatures(weights, protocol)
    features.prepare()
    return features


def close(one, two):
    assert two.norm() > 0.1
    assert (one - two).norm() < 1e-4 * two.norm()


@torch.no_grad()
def test_the_papers_protocol_is_that_of_torch_fidelity(weights):
    features = ready(weights, "paper")
    levels = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    other = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], weights).eval()
    pooled, logits = other(levels)
    vectors = features(to_floats(levels) + 0.4 / 127.5)
    close(vectors, pooled)
    close(features.logits(vectors), logits)
    assert features.logits(vectors).shape == (1, features.num_classes)
    state = torch.load(weights)
    assert all(torch.equal(value, state[name]) for name, value in features.network.state_dict().items())


@torch.no_grad()
def test_torchmetrics_protocol_is_that_of_its_metric(weights):
    features = ready(weights, "torchmetrics")
    metric = FrechetInceptionDistance(2048, normalize=True, feature_extractor_weights_path=weights)
    levels = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    metric.update(levels.float() / 255, real=True)
    close(features(to_floats(levels))[0], metric.real_features_sum)


def test_truncation_is_that_of_torchmetrics():
    assert torch.equal(truncated_to_bytes(to_floats(LEVELS)), LEVELS)
    generated = to_floats(LEVELS) + (0.001 + 0.998 * torch.rand(LEVELS.shape)) / 127.5
    assert torch.equal(truncated_to_bytes(generated), ((generated + 1) / 2 * 255).byte())
    assert truncated_to_bytes(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_protocols_are_told_apart(weights):
    one, two = ready(weights, "torchmetrics"), ready(weights, "paper")
    assert feature_fingerprint(one) != feature_fingerprint(two)
    told = [(each.label, each.rounding, each.resize) for each in (one, two)]
    assert all(len(set(each)) == 2 for each in zip(*told, strict=True))
    assert len(one.weights_hash) == 64


def test_an_unknown_protocol_is_refused(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    with pytest.raises(UserError, match="protocol must be paper or torchmetrics, got 'pytorch'"):
        InceptionFeatures(protocol="pytorch")
