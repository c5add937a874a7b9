"""Teachers of diffusers: its schedulers' samples and our solver's, from the same noise, at the same times."""

from itertools import pairwise

import pytest
import torch
from helpers import shaken

from realuid_lightning.checkpoints import load_diffusers
from realuid_lightning.paths import AffinePath, DiffusionPath
from realuid_lightning.solvers import Dynamics, Euler

diffusers = pytest.importorskip("diffusers")
# Its Euler hands tensors to numpy in a way that newer numpy calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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


def theirs(model, scheduler, x, y, scale=1.0):
    """Their loop, as their pipelines have it."""
    conditions = {} if y is None else y if isinstance(y, dict) else {"class_labels": y}
    scales = hasattr(scheduler, "scale_model_input")
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        a = 1 / (1 + scheduler.sigmas[0] ** 2).sqrt()
        x = x / a  # it steps in xt / a
    with torch.no_grad():
        for t in scheduler.timesteps:
            point = scheduler.scale_model_input(x, t) if scales else x
            told = (t * scale).expand(len(x))
            raw = model(point, timestep=told, return_dict=False, **conditions)[0][:, : x.shape[1]]
            x = scheduler.step(raw, t, x, return_dict=False)[0]
    return x


def ours(path: AffinePath, network, x, y, times):
    """The solver of DDIM, or of Euler on a flow, at their times."""
    dynamics = Dynamics(path, network, y, None, lambda step: torch.zeros_like(x))
    with torch.no_grad():
        for number, (t, s) in enumerate(pairwise(times), 1):
            x = Euler().step(dynamics, t, s, x, number)
        return dynamics.guess(times[-1], x)


def times_of(path, scheduler):
    if isinstance(path, DiffusionPath):
        return 1 - scheduler.timesteps / (path.schedule.steps - 1)
    return 1 - scheduler.sigmas[:-1]


def noise(model):
    config = model.config
    return torch.randn(3, config.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))


DISCRETE = {
    "noise": (unet, {}),
    "v": (unet, {"prediction_type": "v_prediction"}),
    "data": (labelled_unet, {"prediction_type": "sample"}),
    "text": (unet_of_text, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "dit": (dit, {}),
    "list": (unet, {"trained_betas": [0.01 + 0.001 * step for step in range(100)], "num_train_timesteps": 100}),
}


@pytest.mark.parametrize("kind", DISCRETE)
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_ddim_and_euler_agree_with_our_solver(tmp_path, name, kind):
    make, options = DISCRETE[kind]
    model, y = made(make)
    more = {"clip_sample": False} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(timestep_spacing="trailing", **options, **more)
    network, path = load_diffusers(saved(tmp_path, model, scheduler))
    scheduler.set_timesteps(10)
    x = noise(model)
    expected = theirs(model, scheduler, x, y)
    found = ours(path, network.eval(), x, y, times_of(path, scheduler))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [sd3, aura_flow, dit, labelled_unet, unet_of_text], ids=lambda make: make.__name__)
def test_flow_matching_agrees_with_our_solver(tmp_path, make):
    model, y = made(make)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    network, path = load_diffusers(saved(tmp_path, model, scheduler))
    scheduler.set_timesteps(sigmas=[1 - step / 8 for step in range(8)])
    x = noise(model)
    expected = theirs(model, scheduler, x, y, 0.001 if make is aura_flow else 1.0)
    found = Euler().sample(path, network.eval(), x, y, 8)  # whose own times these are
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# Their Euler steps in xt / a, where float32 loses what is compared: noise of 20,000 on the cosine, of 4,096 in place of
# the last step's at zero_snr, whose step before has 15,600.
@pytest.mark.parametrize("options", [{"rescale_betas_zero_snr": True}, {"beta_schedule": "squaredcos_cap_v2"}])
def test_the_pipeline_of_ddim_agrees_with_our_solver(tmp_path, options):
    model, _ = made(unet)
    fixed = {"prediction_type": "v_prediction", "clip_sample": False, "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler(**fixed, **options)
    pipeline = diffusers.DDIMPipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    scheduler.set_timesteps(10)
    network, path = load_diffusers(tmp_path)
    expected = pipeline(3, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="np").images
    found = ours(path, network.eval(), noise(model), None, times_of(path, scheduler))
    torch.testing.assert_close((found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(expected))
