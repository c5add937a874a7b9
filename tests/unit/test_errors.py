import pytest

from realuid_lightning.errors import Faults, UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP, DiT
from realuid_lightning.objectives import GAN, L2, PseudoHuber, SiD
from realuid_lightning.paths import DiffusionPath, InterpolantPath, KarrasSchedule, VPSchedule


class Component:
    def __init__(self, name, size):
        faults = Faults(name)
        faults.unless(size > 0, f"size must be positive, got {size}")
        faults.raise_any()
        self.ratio = 1 / size


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_all_faults_of_a_component_come_in_one_error():
    faults = Faults("Thing")
    faults.unless(True, "never told")
    faults.unless(False, "first")
    faults.unless(False, "second")
    with pytest.raises(UserError) as caught:
        faults.raise_any()
    assert str(caught.value) == "Thing: first\nThing: second"


def test_no_fault_no_error():
    Faults("Thing").raise_any()


def test_faults_of_parts_come_with_those_of_the_whole():
    faults = Faults("Thing")
    assert faults.attempt(lambda: VPSchedule(beta_min=-1.0, beta_max=-2.0)) is None
    assert faults.attempt(lambda: Component("sound", 2)).ratio == 0.5
    for _ in range(2):  # which is told once
        faults.attempt(lambda: Component("broken", 0))
    faults.unless(False, "no file x")
    with pytest.raises(UserError) as caught:
        faults.raise_any()
    assert str(caught.value).splitlines() == [
        "Thing: no file x",
        "VPSchedule: beta_min must be at least 0, got -1.0",
        "VPSchedule: beta_max must be greater than beta_min = -1.0, got -2.0",
        "broken: size must be positive, got 0",
    ]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_other_errors_of_parts_are_no_faults(error):
    def build():
        raise error

    with pytest.raises(error):
        Faults("Thing").attempt(build)


def distillation(**options):
    return RealUIDModule(MLP([2], width=8, depth=1), None, **options)


def teacher(**options):
    return TeacherModule(MLP([2], width=8, depth=1), **options)


NUMBERS = [
    *((distillation, name) for name in ("alpha", "beta", "gamma", "clip", "teacher_ema", "generator_ema")),
    *((GAN, name) for name in ("generator_weight", "discriminator_weight")),
    *((DiffusionPath, name) for name in ("sigma_data", "log_sigma_mean", "log_sigma_std")),
    *((KarrasSchedule, name) for name in ("sigma_min", "sigma_max", "rho")),
    *((VPSchedule, name) for name in ("beta_min", "beta_max")),
    *((PseudoHuber, "h"), (L2, "eps"), (SiD, "alpha_sid"), (InterpolantPath, "noise")),
    (DiT, "mlp_ratio"),
]


@pytest.mark.parametrize(("make", "name"), NUMBERS)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_a_class_refuses_numbers_that_are_not_finite(make, name, value):
    with pytest.raises(UserError, match=f"{name} must be finite, got {value}"):
        make(**{name: value})


def test_a_list_of_numbers_is_refused_for_one_that_is_not_finite():
    with pytest.raises(UserError, match=r"ema must be finite, got \[0.9, inf\]"):
        teacher(ema=[0.9, float("inf")])


def test_faults_of_parts_are_told_beside_ones_own_under_their_own_names():
    def part(size):
        faults = Faults("Part")
        faults.unless(size > 0, f"size must be above 0, got {size}")
        faults.raise_any()
        return size

    faults = Faults("Module")
    assert faults.attempt(lambda: part(3)) == 3
    assert faults.attempt(lambda: part(-1)) is None
    faults.extend(["steps must be above 0, got 0"])
    with pytest.raises(UserError) as told:
        faults.raise_any()
    assert str(told.value).splitlines() == [
        "Module: steps must be above 0, got 0",
        "Part: size must be above 0, got -1",
    ]
