"""Networks: what predicts the matching target, and how it is kept from training."""

from realuid_lightning.networks.blocks import Encoding
from realuid_lightning.networks.frozen import Frozen, frozen_weights
from realuid_lightning.networks.generator import OneStepGenerator
from realuid_lightning.networks.headed import HeadedNetwork
from realuid_lightning.networks.mlp import MLP
from realuid_lightning.networks.unet import UNet

__all__ = ["MLP", "Encoding", "Frozen", "HeadedNetwork", "OneStepGenerator", "UNet", "frozen_weights"]
