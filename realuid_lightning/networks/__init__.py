"""Networks: what predicts the matching target, and how it is kept from training."""

from realuid_lightning.networks.blocks import Encoding
from realuid_lightning.networks.diffusers import DiffusersNetwork
from realuid_lightning.networks.dit import DiT
from realuid_lightning.networks.edm import DhariwalUNet, SongUNet
from realuid_lightning.networks.edm2 import EDM2UNet
from realuid_lightning.networks.frozen import Frozen, freeze, frozen_weights, trainable
from realuid_lightning.networks.generator import Generator
from realuid_lightning.networks.headed import HeadedNetwork, MiddleHead, bare, logit_layers
from realuid_lightning.networks.lora import LoRA, own_weights, shares_weights
from realuid_lightning.networks.mlp import MLP
from realuid_lightning.networks.preconditioned import VENetwork, VPNetwork
from realuid_lightning.networks.unconditional import unconditional
from realuid_lightning.networks.unet import UNet

__all__ = [
    "MLP",
    "DhariwalUNet",
    "DiT",
    "DiffusersNetwork",
    "EDM2UNet",
    "Encoding",
    "Frozen",
    "Generator",
    "HeadedNetwork",
    "LoRA",
    "MiddleHead",
    "SongUNet",
    "UNet",
    "VENetwork",
    "VPNetwork",
    "bare",
    "freeze",
    "frozen_weights",
    "logit_layers",
    "own_weights",
    "shares_weights",
    "trainable",
    "unconditional",
]
