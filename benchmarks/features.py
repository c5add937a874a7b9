"""What features tell apart: Fréchet distances of held-out images, and of a Gaussian, from images of the same data set.

For each classifier that is shipped, by its features and by raw values: one half of the images it was not trained on
against the other (of digits: those it was not trained on against those that it was), and against as many samples of a
Gaussian with the moments of that half, clipped to the range of pixels. Data lie where configs/features look for them.

Usage: python benchmarks/features.py [--device cpu|cuda] [--names digits cifar10_16]
"""

import argparse
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from parts.options import show
from torch import Tensor, nn

from realuid_lightning.data import Digits, Source, to_floats
from realuid_lightning.metrics import ClassifierFeatures, RawFeatures
from realuid_lightning.metrics.classifiers import ARCHITECTURES
from realuid_lightning.metrics.frechet import covariance_root, root_trace
from realuid_lightning.seeding import hashed_normal

CONFIGS = Path(__file__).parents[1] / "configs" / "features"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=here, help="where features are taken")
    parser.add_argument("--names", nargs="+", choices=list(ARCHITECTURES), default=list(ARCHITECTURES))
    options = parser.parse_args()
    rows = []
    for name in options.names:
        real, other = (half.to(options.device) for half in halves(name))
        for features in (ClassifierFeatures(name), RawFeatures(list(real.shape[1:]))):
            features.prepare()
            features.to(options.device)
            known = vectors(features, real)
            floor, far = (distance(known, vectors(features, x)) for x in (other, gaussian(real, len(other))))
            rows.append((name, features.label, str(len(real)), f"{floor:.3g}", f"{far:.3g}", f"{far / floor:.0f} x"))
    show("Fréchet distances", ("images", "features", "of each", "held-out images", "Gaussian", ""), rows)


def halves(name: str) -> tuple[Tensor, Tensor]:
    """Return two halves of a data set's held-out images, in [-1, 1]."""
    source = Digits() if name == "digits" else held_out(name)
    source.prepare()
    source.setup()
    x = to_floats(source.get(torch.arange(len(source)))[0])
    return x[::2], x[1::2]


def held_out(name: str) -> Source:
    """Return the reference of a classifier's config."""
    parser = ArgumentParser()
    parser.add_argument("--it", type=Source)
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    source: Source = parser.instantiate(parser.parse_object({"it": config["data"]["reference"]}))["it"]
    return source


@torch.no_grad()
def vectors(features: nn.Module, x: Tensor) -> Tensor:
    """Return the features of samples."""
    return torch.cat([features(part) for part in x.split(500)])


def gaussian(real: Tensor, count: int) -> Tensor:
    """Return samples of a Gaussian with the moments of real ones, clipped."""
    flat = real.flatten(1).double()
    noise = hashed_normal(torch.arange(count, device=real.device), [flat.shape[1]], 0)
    drawn = flat.mean(0) + noise @ covariance_root(flat.T.cov())
    return drawn.clamp(-1, 1).float().view(-1, *real.shape[1:])


def distance(one: Tensor, two: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians with the moments of two sets of vectors."""
    first, second = (each.T.cov() for each in (one, two))
    means = (one.mean(0) - two.mean(0)).square().sum()
    return float(means + (first + second).trace() - 2 * root_trace(covariance_root(first), second))


if __name__ == "__main__":
    main()
