"""Small models of diffusers, of random weights, and the folders that its pipelines write."""

import pytest
import torch
from helpers import shaken

diffusers = pytest.importorskip("diffusers")

BLOCKS = {"norm_num_groups": 8, "block_out_channels": (16, 16), "layers_per_block": 1}
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    **BLOCKS,
}
TRANSFORMER = {"sample_size": 8, "patch_size": 2, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
LABELS = torch.tensor([3, 0, 1])
TEXT = {"encoder_hidden_states": (3, 5, 12)}


def unet(**options):
    return diffusers.UNet2DModel(**UNET, **options), None


def labelled_unet():
    return diffusers.UNet2DModel(**UNET, num_class_embeds=4), LABELS


def unet_of_text():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4}
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 12}
    return diffusers.UNet2DConditionModel(**sizes, **blocks, **BLOCKS), drawn(TEXT)


def dit():
    sizes = {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 4, "norm_num_groups": 4}
    return diffusers.DiTTransformer2DModel(**TRANSFORMER, **sizes), LABELS


def sd3():
    sizes = {"in_channels": 4, "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 6}
    network = diffusers.SD3Transformer2DModel(**TRANSFORMER, **sizes, pos_embed_max_size=8)
    return network, drawn(TEXT | {"pooled_projections": (3, 6)})


def aura_flow():
    sizes = {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "caption_projection_dim": 16, "pos_embed_max_size": 16}
    arguments = {name: value for name, value in TRANSFORMER.items() if name != "num_layers"}
    return diffusers.AuraFlowTransformer2DModel(**arguments, **sizes, joint_attention_dim=12), drawn(TEXT)


def drawn(shapes):
    rng = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def made(make, **options):
    """A model of random weights, every part of which acts, and its condition."""
    torch.manual_seed(0)
    model, y = make(**options)
    return shaken(model.eval(), 0.05), y


def saved(folder, model, scheduler):
    """What a pipeline's ``save_pretrained`` writes of both."""
    name = "unet" if "UNet" in type(model).__name__ else "transformer"
    model.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder


def noise(model):
    config = model.config
    return torch.randn(3, config.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))
