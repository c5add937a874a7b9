"""The path that a diffusers scheduler's config stands for: no more of it than how the network was trained."""

from collections.abc import Mapping
from typing import Any

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.paths.affine import AffinePath
from realuid_lightning.paths.diffusion import SHARE, SIGMA, DiffusionPath
from realuid_lightning.paths.flow import FlowMatchingPath
from realuid_lightning.paths.parameterisations import (
    EDM,
    Data,
    Noise,
    Parameterisation,
    ReversedVelocity,
    VPrediction,
)
from realuid_lightning.paths.schedules import DDPMSchedule, KarrasSchedule
from realuid_lightning.paths.time_inputs import ReversedTime

_PREDICTIONS: dict[str, type[Parameterisation]] = {"epsilon": Noise, "v_prediction": VPrediction, "sample": Data}
_MOST = 1_000_000
"""Most steps of a schedule: a small file asks for no more memory than that."""

_TOP = 0.2 * 0.002 ** (1 / 7) + 0.8 * 80.0 ** (1 / 7)  # SiD's greatest noise level, to the power 1/7


def path_of_scheduler(config: Mapping[str, Any], time_scale: float = 1.0) -> AffinePath:
    """Return the path that a network was trained on, given the config of its scheduler.

    Which scheduler it is matters little: all those of discrete steps share the settings that count for training. What
    they say of sampling (spacing of steps, clipping, Karras' levels) is left to the solver.

    - Discrete steps (``DDPMScheduler``, ``DDIMScheduler``, ``EulerDiscreteScheduler`` and their kin): a
      ``DiffusionPath`` on ``DDPMSchedule``, whose network is told the step. Its generator calls the network at the step
      whose noise level is nearest to SiD's 2.5, and trains up to SiD's greatest, 24.4.
    - ``FlowMatch...``: a ``FlowMatchingPath``, shifted as the scheduler is, whose network predicts the velocity towards
      the noise. A shift that depends on the size of an image is left out.
    - ``EDM...``: a ``DiffusionPath`` with EDM's preconditioning.

    Args:
        config: The content of ``scheduler_config.json``.
        time_scale: What the network of a flow is told, in units of the scheduler's timesteps: 1 for SD3's, 0.001 for
            networks whose pipeline divides by 1000.

    Raises:
        UserError: If the config lacks a setting, or stands for something else.

    Example:
        >>> betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
        >>> path = path_of_scheduler({"_class_name": "DDPMScheduler", "prediction_type": "epsilon", **betas})
        >>> path.parameterisation.recorded()["class_path"]
        'realuid_lightning.paths.parameterisations.Noise'
    """
    name, prediction = str(config.get("_class_name")), str(config.get("prediction_type", "epsilon"))
    if name.startswith("FlowMatch"):
        return _flow(name, config, "shift", time_scale)
    if prediction == "flow_prediction":
        return _flow(name, config, "flow_shift", time_scale)
    if name.startswith("EDM"):
        return _edm(name, config)
    if "beta_schedule" in config:
        return _discrete(name, config, prediction)
    raise UserError(
        f"{name}: its config stands for no path known here, which are those of discrete steps (with beta_schedule), "
        "FlowMatch... and EDM...; make the path yourself, and the network by load_diffusers_network"
    )


def _discrete(name: str, config: Mapping[str, Any], prediction: str) -> DiffusionPath:
    faults = Faults(name)
    faults.unless(
        prediction in _PREDICTIONS, f"prediction_type must be one of {', '.join(_PREDICTIONS)}, got {prediction!r}"
    )
    trained, zero_snr = config.get("trained_betas"), bool(config.get("rescale_betas_zero_snr", False))
    if trained is not None:
        sound = isinstance(trained, (list, tuple)) and all(isinstance(beta, float) for beta in trained)
        faults.unless(sound, f"trained_betas must be numbers, got {str(trained)[:80]}")
        betas = {"betas": trained}
    else:
        known = {"betas": "beta_schedule", "beta_first": "beta_start", "beta_last": "beta_end"}
        betas = {ours: config.get(theirs) for ours, theirs in known.items()}
        for key in ("beta_start", "beta_end"):
            faults.unless(isinstance(config.get(key), float), f"{key} must be a number, got {config.get(key)!r}")
        betas["steps"] = steps = config.get("num_train_timesteps")
        sound = isinstance(steps, int) and 1 < steps <= _MOST
        faults.unless(sound, f"num_train_timesteps must be a whole number, from 2 to {_MOST}, got {steps!r}")
        faults.unless(isinstance(betas["betas"], str), f"beta_schedule must be a name, got {betas['betas']!r}")
    faults.raise_any()
    schedule = DDPMSchedule(**betas, zero_snr=zero_snr)
    levels = schedule.levels()
    nearest = levels[1:][(levels[1:] - SIGMA).abs().argmin()].item()
    least, greatest = (level ** (1 / 7) for level in schedule.sigma_range)
    return DiffusionPath(
        schedule,
        generator_sigma=nearest,
        generator_share=min(SHARE, (_TOP - least) / (greatest - least)),
        parameterisation=_PREDICTIONS[prediction](ReversedTime(float(schedule.steps - 1))),
    )


def _flow(name: str, config: Mapping[str, Any], shift: str, time_scale: float) -> FlowMatchingPath:
    faults = Faults(name)
    dynamic, steps, moved = (
        config.get("use_dynamic_shifting", False),
        config.get("num_train_timesteps", 1000),
        config.get(shift, 1.0),
    )
    faults.unless(isinstance(steps, int) and steps > 0, f"num_train_timesteps must be positive, got {steps!r}")
    faults.unless(isinstance(moved, (int, float)), f"{shift} must be a number, got {moved!r}")
    faults.unless(
        not config.get("invert_sigmas", False), "invert_sigmas is true, which means another direction of time"
    )
    faults.raise_any()
    told = ReversedVelocity(ReversedTime(float(steps * time_scale)))
    return FlowMatchingPath(shift=1.0 if dynamic else float(moved), parameterisation=told)


def _edm(name: str, config: Mapping[str, Any]) -> DiffusionPath:
    given = {key: config.get(key, usual) for key, usual in (("sigma_min", 0.002), ("sigma_max", 80.0), ("rho", 7.0))}
    sigma_data, prediction = config.get("sigma_data", 0.5), config.get("prediction_type", "epsilon")
    faults = Faults(name)
    for key, value in {**given, "sigma_data": sigma_data}.items():
        faults.unless(isinstance(value, (int, float)), f"{key} must be a number, got {value!r}")
    faults.unless(prediction == "epsilon", f"prediction_type must be epsilon, got {prediction!r}")
    faults.raise_any()
    return DiffusionPath(KarrasSchedule(**given), sigma_data, parameterisation=EDM(sigma_data))
