"""Configs of schedulers, as diffusers writes them, and the paths that they stand for."""

import pytest
import torch

from realuid_lightning.errors import UserError
from realuid_lightning.paths import (
    EDM,
    Data,
    DDPMSchedule,
    DiffusionPath,
    FlowMatchingPath,
    MatchingPath,
    Noise,
    ReversedVelocity,
    VPrediction,
    path_of_scheduler,
)
from realuid_lightning.recorded import rebuild

DDPM = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


@pytest.mark.parametrize(
    ("prediction", "expected"), [("epsilon", Noise), ("v_prediction", VPrediction), ("sample", Data), (None, Noise)]
)
def test_what_the_network_predicts(prediction, expected):
    config = DDPM | {"prediction_type": prediction} if prediction else DDPM.copy()
    if prediction is None:  # of before there was a choice
        del config["prediction_type"]
    path = path_of_scheduler(config)
    assert type(path.parameterisation) is expected
    told, _ = path.inputs(torch.tensor([1.0, 0.0]), torch.zeros(2, 1))
    assert told.tolist() == [0, 999]


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.01] * 300, "num_train_timesteps": 300},
        {"num_train_timesteps": 20, "beta_end": 0.5},
    ],
)
def test_a_generator_begins_at_a_whole_step_and_trains_up_to_the_level_of_sid(options):
    path = path_of_scheduler(DDPM | options)
    time = path.generator_start
    step = (1 - time) * (path.schedule.steps - 1)
    assert step == pytest.approx(round(step), abs=1e-6)
    assert path.generator_sigma == pytest.approx(2.5, rel=0.2)
    greatest = path.sigma(path.generator_t(torch.ones(1))).item()
    assert greatest <= min(24.5, path.sigma_max)
    again = rebuild(path.recorded(), MatchingPath)
    assert again.recorded() == path.recorded()


def test_a_flow_is_shifted_as_its_scheduler():
    path = path_of_scheduler(FLOW)
    assert isinstance(path, FlowMatchingPath)
    assert (path.shift, type(path.parameterisation)) == (3, ReversedVelocity)
    assert path.inputs(torch.tensor([0.25]), torch.zeros(1, 1))[0].tolist() == [750]
    assert path_of_scheduler(FLOW, 0.001).inputs(torch.tensor([0.25]), torch.zeros(1, 1))[0].tolist() == [0.75]
    assert path_of_scheduler(FLOW | {"use_dynamic_shifting": True}).shift == 1
    solver = DDPM | {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 2.0}
    assert path_of_scheduler(solver).recorded() == path_of_scheduler(FLOW | {"shift": 2.0}).recorded()


def test_edm_is_our_own():
    config = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 1.0, "rho": 7.0}
    path = path_of_scheduler(config)
    assert (path.sigma_data, type(path.parameterisation), path.sigma_max) == (1, EDM, pytest.approx(50))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "None: its config stands for no path known here"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler: its config stands for no path known here"),
        (
            DDPM | {"prediction_type": "noise"},
            "prediction_type must be one of epsilon, v_prediction, sample, got 'noise'",
        ),
        (DDPM | {"beta_end": None}, "beta_end must be a number, got None"),
        (DDPM | {"beta_schedule": "laplace"}, "betas must be one of linear"),
        (DDPM | {"beta_schedule": 3}, "beta_schedule must be a name, got 3"),
        (DDPM | {"num_train_timesteps": "many"}, "num_train_timesteps must be a whole number"),
        (DDPM | {"num_train_timesteps": 10**12}, "num_train_timesteps must be a whole number"),
        (DDPM | {"trained_betas": ["a", "b"]}, "trained_betas must be numbers"),
        (FLOW | {"shift": "far"}, "shift must be a number, got 'far'"),
        (FLOW | {"invert_sigmas": True}, "another direction of time"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "prediction_type must be epsilon"),
        ({"_class_name": "EDMEulerScheduler", "rho": []}, r"rho must be a number, got \[\]"),
    ],
)
def test_other_configs_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        path_of_scheduler(config)


def test_the_path_is_that_of_discrete_steps():
    path = path_of_scheduler(DDPM)
    assert isinstance(path, DiffusionPath)
    assert path.schedule.recorded() == DDPMSchedule().recorded()
