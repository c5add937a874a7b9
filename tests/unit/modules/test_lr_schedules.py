import pytest
import torch
from helpers import mlp
from torch.optim import SGD

from realuid_lightning.errors import UserError
from realuid_lightning.modules import LinearDecay, RealUIDModule, TeacherModule, Warmup

RATE = 0.25


def rates(make, updates):
    """Return the rate of each update, the first one first."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], RATE)
    schedule = make(optimizer)
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("steps", [1, 3, 500])
def test_warm_up_is_linear_and_then_constant(steps):
    expected = [RATE * min(update, steps) / steps for update in range(2 * steps)]
    assert rates(lambda optimizer: Warmup(optimizer, steps), 2 * steps) == pytest.approx(expected, rel=1e-15)


def test_no_warm_up_is_constant():
    assert rates(Warmup, 5) == [RATE] * 5


def test_no_schedule_is_constant():
    teacher = TeacherModule(mlp(), schedule=None)
    distillation = RealUIDModule(mlp(), None, fake_schedule=None, generator_schedule=None)
    for make in (teacher.schedule, distillation.fake_schedule, distillation.generator_schedule):
        assert rates(make, 5) == [RATE] * 5


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 4), (5, 4), (1, 0)])
def test_linear_decay_rises_and_falls_to_zero(steps, warmup):
    expected = [
        RATE * (update / warmup if update < warmup else max(steps - update, 0) / (steps - warmup))
        for update in range(15)
    ]
    found = rates(lambda optimizer: LinearDecay(optimizer, steps, warmup), 15)
    assert found == pytest.approx(expected, rel=1e-15)
    assert found[warmup] == RATE
    assert set(found[steps:]) == {0.0}


def test_schedules_resume():
    def make():
        optimizer = SGD([torch.zeros(1, requires_grad=True)], RATE)
        return optimizer, LinearDecay(optimizer, 20, 5)

    first, schedule = make()
    for _ in range(7):
        first.step()
        schedule.step()
    second, resumed = make()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for optimizer, each in ((first, schedule), (second, resumed)):
        optimizer.step()
        each.step()
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"] == pytest.approx(RATE * 12 / 15)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda optimizer: Warmup(optimizer, -1), "Warmup: steps must be at least 0, got -1"),
        (lambda optimizer: LinearDecay(optimizer, 5, 5), "warmup 5 and steps 5"),
        (lambda optimizer: LinearDecay(optimizer, 5, -1), "warmup -1 and steps 5"),
    ],
)
def test_impossible_schedules_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        rates(make, 1)
