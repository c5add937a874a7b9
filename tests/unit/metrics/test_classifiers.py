"""The classifiers that are shipped: what they recognise, and that their features see what raw values do not."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from realuid_lightning.data import Digits, to_floats
from realuid_lightning.errors import UserError
from realuid_lightning.metrics import ClassifierFeatures, RawFeatures, feature_fingerprint, to_bytes
from realuid_lightning.metrics.classifiers import (
    ARCHITECTURES,
    FOLDER,
    ClassifierNetwork,
    load_classifier,
    save_classifier,
)
from realuid_lightning.metrics.frechet import covariance_root, root_trace

PAGE = Path(__file__).parents[3] / "docs" / "features.md"
ACCURACY = {"digits": 0.97, "fashion_mnist": 0.91, "cifar10_16": 0.75}
names = pytest.mark.parametrize("name", ARCHITECTURES)


def ready(name):
    features = ClassifierFeatures(name)
    features.prepare()
    return features


@pytest.fixture(scope="module")
def digits():
    """Samples and labels of even, and of odd index."""
    halves = [Digits(part=part) for part in ("even", "odd")]
    return [(to_floats(x), y) for x, y in (half.get(torch.arange(len(half))) for half in halves)]


def distance(one, two):
    """Squared Fréchet distance between Gaussians of the moments of two sets of vectors."""
    (first, second), means = (vectors.double().T.cov() for vectors in (one, two)), one.mean(0) - two.mean(0)
    return float(means.square().sum() + (first + second).trace() - 2 * root_trace(covariance_root(first), second))


@names
def test_a_classifier_is_small_and_tells_where_it_comes_from(name):
    file = FOLDER / f"{name}.safetensors"
    assert file.stat().st_size <= 1_000_000
    about = load_classifier(ClassifierNetwork(name), file)
    assert about["command"] == f"realuid classifier --config configs/features/{name}.yaml"
    assert float(about["accuracy"]) >= ACCURACY[name]
    assert {"trained_on", "held_out"} < about.keys()
    assert ("JPEG" in about["trained_on"]) == name.startswith("cifar10")
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}`"))
    assert f" {file.stat().st_size / 1000:.0f} kB " in row
    assert f" {float(about['accuracy']):.2%} of ".replace("%", " %") in row
    assert f"`{about['sha256'][:12]}...`" in row


@names
def test_features_and_logits_are_those_of_the_network(name):
    features = ready(name)
    levels = torch.randint(256, (3, *features.shape), dtype=torch.uint8)
    x = to_floats(levels)
    vectors = features(x)
    assert (vectors.dtype, vectors.shape) == (torch.float64, (3, features.num_features))
    network = ClassifierNetwork(name).eval()
    load_classifier(network, FOLDER / f"{name}.safetensors")
    torch.testing.assert_close(features.logits(vectors), network(x).double(), atol=1e-4, rtol=1e-4)
    assert features.logits(vectors).shape == (3, features.num_classes)
    noisy = x + 0.49 * (2 * torch.rand_like(x) - 1) / 127.5
    assert torch.equal(to_bytes(noisy), levels)
    assert torch.equal(features(noisy), vectors)


def test_the_digits_classifier_recognises_what_it_has_not_seen(digits):
    features = ready("digits")
    x, y = digits[1]
    accuracy = (features.logits(features(x)).argmax(1) == y).double().mean()
    with safe_open(FOLDER / "digits.safetensors", "pt") as file:
        assert f"{accuracy:.4f}" == file.metadata()["accuracy"]


def test_features_see_what_raw_values_do_not(digits):
    """To raw values, a Gaussian of the digits' moments is nearer to them than other digits are."""
    (even, _), (odd, _) = digits
    flat, generator = even.flatten(1).double(), torch.Generator().manual_seed(0)
    noise = torch.randn(len(odd), 64, generator=generator, dtype=torch.float64)
    gaussian = (flat.mean(0) + noise @ covariance_root(flat.T.cov())).view(-1, 1, 8, 8).float()
    scores = {}
    for features in (RawFeatures([1, 8, 8]), ready("digits")):
        floor, ceiling = (distance(features(even), features(x)) for x in (odd, gaussian))
        scores[type(features)] = ceiling / floor
    assert scores[RawFeatures] < 1
    assert scores[ClassifierFeatures] > 10


def test_a_sample_that_is_not_finite_has_no_features():
    x = torch.zeros(3, 1, 8, 8)
    x[1, 0, 2, 2] = torch.nan
    assert ready("digits")(x).isnan().all(1).tolist() == [False, True, False]


def test_the_protocol_is_told():
    features = ready("digits")
    assert (features.label, features.rounding, features.resize) == ("digits classifier (64)", "nearest", "none")
    assert features.weights_hash in feature_fingerprint(features)
    assert features.recorded()["init_args"] == {"name": "digits"}
    assert features.fault((1, 8, 8)) is None
    assert features.fault((3, 16, 16)).endswith("but they have shape (3, 16, 16): name cifar10_16")
    assert "RawFeatures" in features.fault((2,))


def test_an_unknown_name_is_refused(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    with pytest.raises(UserError, match=r"name must be one of digits, .*got 'letters'"):
        ClassifierFeatures("letters")


def test_weights_that_are_not_those_of_their_hash_are_refused(tmp_path):
    network, file = ClassifierNetwork("digits"), tmp_path / "new.safetensors"
    save_classifier(network, file, {"accuracy": "1"})
    assert load_classifier(network, file).keys() == {"accuracy", "sha256"}
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"do not have the SHA-256 that its header tells.*install this package anew"):
        load_classifier(network, file)
    file.write_bytes(content[:1000])
    with pytest.raises(UserError, match="holds no such classifier"):
        load_classifier(network, file)
    with pytest.raises(UserError, match="holds no such classifier"):
        load_classifier(network, tmp_path / "absent.safetensors")
    save_classifier(ClassifierNetwork("fashion_mnist"), file, {})
    with pytest.raises(UserError, match="holds no such classifier"):
        load_classifier(network, file)
