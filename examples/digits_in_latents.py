"""A generator of latents: digits by their first principal components, decoded wherever they are measured or drawn."""

from functools import cache

import torch

from realuid_lightning.data import Digits, Encoder


@cache
def principal(count):
    """Return mean, directions and standard deviations of the digits' first principal components."""
    x = Digits().load()[0].flatten(1).float() / 127.5 - 1
    _, deviations, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return x.mean(0), directions[:count], deviations[:count] / len(x) ** 0.5


class Components(Encoder):
    """The first ``count`` principal components of 8 x 8 digits, each of unit variance."""

    def __init__(self, count=16):
        super().__init__()
        self.count = count

    def latent_shape(self, shape):  # noqa: ARG002
        """Return the shape of latents."""
        return (self.count,)

    def encode(self, x):
        """Return the components of images."""
        mean, directions, deviations = (part.to(x) for part in principal(self.count))
        return (x.flatten(1) - mean) @ directions.T / deviations

    def decode(self, z):
        """Return the images of components."""
        mean, directions, deviations = (part.to(z) for part in principal(self.count))
        return (mean + z * deviations @ directions).view(-1, 1, 8, 8)
