"""A small network of every class, and inputs that fit it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import acting
from torch import Tensor, nn

from realuid_lightning.networks import MLP, DhariwalUNet, DiT, EDM2UNet, SongUNet, UNet

SMALL: dict[str, Any] = {"channel_mult": [1, 2], "attn_resolutions": [4], "num_blocks": 1}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
Maker = Callable[..., Any]


def ddpmpp(**options: Any) -> SongUNet:
    return SongUNet(8, 1, **{"num_classes": 10, "model_channels": 16, "augment_dim": 9, **SMALL, **options})


def ncsnpp(**options: Any) -> SongUNet:
    return ddpmpp(**NCSNPP, **options)


def adm(**options: Any) -> DhariwalUNet:
    return DhariwalUNet(8, 1, **{"num_classes": 10, "model_channels": 32, **SMALL, **options})


def edm2(**options: Any) -> EDM2UNet:
    sizes = {"num_classes": 10, "model_channels": 16, "channels_per_head": 16, "logvar_channels": 8}
    return EDM2UNet(8, 1, **{**sizes, **SMALL, **options})


def dit(**options: Any) -> DiT:
    return DiT(8, 2, 1, 32, 3, 2, **{"num_classes": 10, **options})


def unet(**options: Any) -> UNet:
    sizes = {"channel_mult": [1, 2], "attention_resolutions": [4], "num_head_channels": 16}
    return UNet(8, 3, 32, 1, **{"num_classes": 10, **sizes, **options})


def unet_with_blocks(**options: Any) -> UNet:
    return unet(**{"scales": True, "resample": "block", "null_label": True, **options})


def unet_with_pooling(**options: Any) -> UNet:
    return unet(**{"scales": True, "resample": "pooling", "first_channels": 64, "null_label": True, **options})


def mlp(**options: Any) -> MLP:
    return MLP([1, 8, 8], **{"num_classes": 10, "width": 32, **options})


def mlp_of_vectors(**options: Any) -> MLP:
    return MLP([2], **{"num_classes": 10, "width": 16, **options})


WITH_NULL_LABEL = [ddpmpp, ncsnpp, adm, edm2, dit, unet_with_blocks, unet_with_pooling]
UNETS = [unet, unet_with_blocks, unet_with_pooling, ddpmpp, ncsnpp, adm, edm2]
MAKERS = [mlp, mlp_of_vectors, unet, *WITH_NULL_LABEL]


def each(makers: list[Maker]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", makers, ids=lambda make: make.__name__)


def small(make: Maker, **options: Any) -> Any:
    """The same network at every call, every part of which acts."""
    torch.manual_seed(0)
    return acting(make(**options), 0.3)


def inputs(network: Any, batch: int = 4) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    shape = (network.shape[0] + network.condition_channels, *network.shape[1:])
    y = None if network.num_classes is None else torch.arange(batch) % network.num_classes
    return torch.rand(batch, generator=generator), torch.randn(batch, *shape, generator=generator), y


def gradients(network: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(2)  # dropout
    network(*inputs(network)).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}
