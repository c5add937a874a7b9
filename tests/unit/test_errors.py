# ruff: noqa: PT012 - what a block notes and then raises is the point
import pytest

from realuid_lightning.errors import Faults, UserError, gathering_faults
from realuid_lightning.paths import VPSchedule


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


def test_faults_of_several_components_come_in_one_error_with_what_follows_from_them():
    with pytest.raises(UserError) as caught, gathering_faults():
        VPSchedule(beta_min=-1.0, beta_max=-2.0)
        Component("broken", 0)  # goes on after the noted fault, and divides by zero
        raise AssertionError("not reached")
    assert str(caught.value).splitlines() == [
        "VPSchedule: beta_min must be at least 0, got -1.0",
        "VPSchedule: beta_max must be greater than beta_min = -1.0, got -2.0",
        "broken: size must be positive, got 0",
    ]


def test_a_fault_raised_on_the_spot_is_told_with_the_noted_ones():
    with pytest.raises(UserError) as caught, gathering_faults():
        VPSchedule(beta_min=-1.0)
        raise UserError("Other: no file x")
    assert str(caught.value).splitlines() == ["VPSchedule: beta_min must be at least 0, got -1.0", "Other: no file x"]


def test_without_faults_other_errors_pass():
    with pytest.raises(ZeroDivisionError), gathering_faults():
        _ = 1 / 0
    with gathering_faults():
        assert Component("sound", 2).ratio == 0.5


def test_after_the_block_faults_are_raised_at_once_again():
    with pytest.raises(UserError), gathering_faults():
        Faults("Thing").unless(True, "never told")
        Component("broken", -1)
    with pytest.raises(UserError, match=r"^late: size must be positive, got -3$"):
        Component("late", -3)


def test_an_interrupt_is_no_fault():
    with pytest.raises(KeyboardInterrupt), gathering_faults():
        Component("broken", -1)
        raise KeyboardInterrupt
