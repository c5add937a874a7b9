"""An encoder for tests, and one of the library diffusers at a small size."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from realuid_lightning.data import Encoder


class Blocks(Encoder):
    """Means of 2 x 2 pixels, times a gain."""

    def __init__(self, gain=2.0):
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def latent_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2)

    def encode(self, x):
        return F.avg_pool2d(x, 2) * self.gain

    def decode(self, z):
        return (z / self.gain).repeat_interleave(2, -1).repeat_interleave(2, -2)


def autoencoder(folder, seed=0, **config):
    """Write a small ``AutoencoderKL`` of grey images, each side halved, and return it."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 3, "layers_per_block": 1}
    model = diffusers.AutoencoderKL(in_channels=1, out_channels=1, **blocks, **sizes, **config)
    model.save_pretrained(folder)
    return model.eval()
