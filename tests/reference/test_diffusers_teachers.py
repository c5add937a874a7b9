"""Teachers of diffusers: its schedulers' samples and our solver's, from the same noise, at the same times."""

from itertools import pairwise

import pytest
import torch
from small_diffusers import aura_flow, diffusers, dit, labelled_unet, made, noise, saved, sd3, unet, unet_of_text

from realuid_lightning.checkpoints import load_diffusers
from realuid_lightning.paths import AffinePath, DiffusionPath
from realuid_lightning.solvers import Dynamics, Euler

# Its Euler hands tensors to numpy in a way that newer numpy calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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


def test_equal_steps_are_those_of_linspace(tmp_path):
    model, y = made(labelled_unet)
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="linspace", prediction_type="v_prediction")
    network, path = load_diffusers(saved(tmp_path, model, scheduler))
    scheduler.set_timesteps(10)
    z = noise(model)
    expected = theirs(model, scheduler, path.noised(torch.zeros(3), z, torch.zeros_like(z)), y)
    torch.testing.assert_close(Euler().sample(path, network.eval(), z, y, 10), expected, atol=1e-4, rtol=1e-4)


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
