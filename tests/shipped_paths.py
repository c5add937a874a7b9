"""Every path with every option: a new one goes here, and is asked for by tables/test_solvers_on_paths.py."""

from itertools import product

import pytest

from realuid_lightning.paths import (
    EDM,
    BridgePath,
    CosineSchedule,
    Data,
    DDPMSchedule,
    DDPMSteps,
    DiffusionPath,
    EncoderDecoderSchedule,
    FlowMatchingPath,
    InterpolantPath,
    KarrasSchedule,
    LinearSchedule,
    LogSigma,
    Noise,
    PathTime,
    ReversedTime,
    ReversedVelocity,
    Sigma,
    Velocity,
    VPrediction,
    VPSchedule,
    VPSteps,
)

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule(), "vp": VPSchedule()}
KARRAS, ENCDEC = KarrasSchedule(), EncoderDecoderSchedule()
every_schedule = pytest.mark.parametrize(
    "schedule", [*SCHEDULES.values(), KARRAS], ids=lambda each: type(each).__name__
)
GAMMAS = ("sqrt", "sin2", "none")
PATHS = {
    **{f"flow {name}": FlowMatchingPath(schedule) for name, schedule in SCHEDULES.items()},
    "flow karras": FlowMatchingPath(KarrasSchedule(0.01, 80.0, 3.0)),
    "diffusion karras": DiffusionPath(KARRAS),
    "diffusion vp": DiffusionPath(VPSchedule()),
    "flow linear noise": FlowMatchingPath(parameterisation=Noise()),
    "flow linear data": FlowMatchingPath(parameterisation=Data(PathTime(1000.0))),
    "flow linear reversed": FlowMatchingPath(shift=3.0, parameterisation=ReversedVelocity(ReversedTime(1000.0))),
    "flow cosine v": FlowMatchingPath(SCHEDULES["cosine"], parameterisation=VPrediction(Sigma())),
    "flow cosine edm": FlowMatchingPath(SCHEDULES["cosine"], parameterisation=EDM()),
    "flow ddpm v": FlowMatchingPath(DDPMSchedule(), parameterisation=VPrediction(ReversedTime(999.0))),
    "flow vp noise": FlowMatchingPath(SCHEDULES["vp"], parameterisation=Noise(DDPMSteps())),
    "diffusion karras v": DiffusionPath(KARRAS, parameterisation=VPrediction(VPSteps(), unit_variance=True)),
    "diffusion ddpm noise": DiffusionPath(DDPMSchedule(), parameterisation=Noise(ReversedTime(999.0))),
    "diffusion vp velocity": DiffusionPath(SCHEDULES["vp"], parameterisation=Velocity(LogSigma())),
    **{f"interpolant {n} {g}": InterpolantPath(s, g) for (n, s), g in product(SCHEDULES.items(), GAMMAS)},
    **{f"interpolant karras {g}": InterpolantPath(KarrasSchedule(0.01, 80.0, 3.0), g) for g in GAMMAS},
    "interpolant ddpm sqrt": InterpolantPath(DDPMSchedule(), "sqrt"),
    **{f"interpolant encdec {g}": InterpolantPath(ENCDEC, g) for g in ("sqrt", "sin2")},
    **{f"translating {n} {g}": InterpolantPath(s, g, True) for (n, s), g in product(SCHEDULES.items(), GAMMAS[1:])},
    "translating linear sqrt": InterpolantPath(translates=True),
    "translating cosine sqrt": InterpolantPath(SCHEDULES["cosine"], translates=True),
    "translating linear sqrt 0.2": InterpolantPath(translates=True, noise=0.2),
    **{
        f"bridge {target}{' shown' * condition}{' latent' * latent}": BridgePath(0.5, target, condition, latent)
        for target, condition, latent in product(("x1", "drift"), (True, False), (True, False))
    },
}
