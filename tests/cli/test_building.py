"""The parts of a config are built one by one, and what is wrong with them is told at once."""

import pytest
import torch

from realuid_lightning.cli.building import Builder, Missing
from realuid_lightning.errors import Faults, UserError


class Part:
    def __init__(self, size=1):
        faults = Faults("Part")
        faults.unless(size > 0, f"size must be positive, got {size}")
        faults.raise_any()


class Whole:
    """Has a part that may be left out, and one that may not."""

    def __init__(self, needed, part=None, alpha=1.0):
        faults = Faults("Whole")
        faults.unless(alpha <= 1, f"alpha must be at most 1, got {alpha}")
        faults.unless(part is not None, "set part to a Part")
        faults.raise_any()
        self.parts = needed, part


class Crash:
    def __init__(self, part=None):
        raise RuntimeError("crash")


CRASH = f"Crash: RuntimeError: crash (test_building.py, line {Crash.__init__.__code__.co_firstlineno + 1})"


def lines(builder):
    with pytest.raises(UserError) as caught:
        builder.finish()
    return str(caught.value).splitlines()


def test_what_is_sound_is_built():
    builder = Builder()
    part = builder.build(Part, size=2)
    assert builder.build(Whole, part, part=part).parts == (part, part)
    builder.finish()


def test_faults_of_all_parts_come_at_once_without_those_that_follow():
    builder = Builder()
    broken = builder.build(Part, size=0)
    whole = builder.build(Whole, needed=builder.build(Part), part=broken, alpha=2.0)
    assert isinstance(whole, Missing)
    builder.build(Crash)
    assert lines(builder) == [
        "Part: size must be positive, got 0",
        "Whole: alpha must be at most 1, got 2.0",
        CRASH,
    ]


@pytest.mark.parametrize("held", [lambda part: part, lambda part: [Part(), part], lambda part: {"a": (part,)}])
def test_what_lacks_a_part_that_it_needs_is_not_built(held):
    builder = Builder()
    broken = held(builder.build(Part, size=0))
    assert isinstance(builder.build(Whole, needed=broken, part=Part(), alpha=2.0), Missing)
    assert isinstance(builder.build(Crash, part=broken), Missing)
    assert isinstance(builder.build(Whole, needed=Part(), part=builder.build(Crash, part=broken)), Missing)
    assert lines(builder) == ["Part: size must be positive, got 0"]


def test_what_a_constructor_asks_for_is_told_there():
    class Asking:
        def __init__(self, make):
            try:
                make(0)
            except UserError as error:
                raise UserError(f"Asking: {error}") from error

    builder = Builder()
    builder.build(Asking, make=lambda size: builder.build(Part, size=size))
    builder.build(Asking, make=lambda size: builder.build(Crash, size))
    assert lines(builder) == [
        "Asking: Part: size must be positive, got 0",
        f"Asking: {CRASH}",
    ]


def test_a_null_that_a_constructor_cannot_do_with_is_named():
    class Ratio:
        def __init__(self, above, below=1.0, scale=None):
            self.value = above / below

    builder = Builder()
    builder.build(Ratio, above=1.0, below=None, scale=None)
    builder.build(Ratio, above=1.0, below=0.0, scale=None)
    null, zero = lines(builder)
    assert "'NoneType'" in null
    assert null.endswith("; null is given for below: leave it out, or set a value")
    assert "null" not in zero


def test_when_all_is_built_faults_are_raised_at_once_again():
    builder = Builder()
    builder.finish()
    with pytest.raises(UserError, match=r"^Part: size must be positive, got -3$"):
        builder.build(Part, size=-3)


def test_an_optimizer_s_own_error_reaches_the_module_that_asks_for_it():
    builder = Builder()
    builder.finish()
    with pytest.raises(ValueError, match="Invalid learning rate") as caught:
        builder.build(torch.optim.SGD, [torch.nn.Parameter(torch.ones(1))], lr=-1.0)
    assert not isinstance(caught.value, UserError)


def test_an_interrupt_is_no_fault():
    class Interrupted:
        def __init__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Builder().build(Interrupted)
