"""Guided teachers of a mixture of Gaussians, whose guided score is known."""

import pytest
import torch
from exact_teachers import Law, teacher
from scipy.integrate import solve_ivp
from shipped_paths import PATHS
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from realuid_lightning.guidance import guided
from realuid_lightning.paths import AffinePath, DiffusionPath
from realuid_lightning.solvers import Euler, Heun, ManySteps

MEANS, STDS, WEIGHTS = (-1.0, 1.2), (0.3, 0.2), (0.3, 0.7)
LAWS = [*(Law((mean,), (std,)) for mean, std in zip(MEANS, STDS, strict=True)), Law(MEANS, STDS, WEIGHTS)]
AFFINE = {name: path for name, path in PATHS.items() if isinstance(path, AffinePath)}


class Exact(nn.Module):
    """Knows the two parts of a mixture by their labels, and the whole by the label 2."""

    def __init__(self, path):
        super().__init__()
        self.teachers = [teacher(path, law) for law in LAWS]

    def forward(self, t, x, y=None):
        found = torch.empty(len(x), 1, dtype=x.dtype)
        for label, ask in enumerate(self.teachers):
            found[y == label] = ask(t[y == label], x[y == label])
        return found

    def unconditional(self, y):
        return torch.full_like(y, 2)


def score(a, b, x, y, scale):
    """The guided score where ``xt = a x1 + b x0``, by differentiating log densities."""
    x = x.detach().requires_grad_()
    mean, std = a * torch.tensor(MEANS).double(), ((a * torch.tensor(STDS).double()) ** 2 + b**2).sqrt()
    own = Normal(mean[y][:, None], std[y][:, None]).log_prob(x)
    whole = MixtureSameFamily(Categorical(torch.tensor(WEIGHTS).double()), Normal(mean, std)).log_prob(x)
    return torch.autograd.grad((scale[:, None] * own + (1 - scale[:, None]) * whole).sum(), x)[0]


@pytest.mark.parametrize("path", AFFINE.values(), ids=AFFINE)
def test_it_is_the_guided_score_of_a_mixture(path):
    start, end = path.t_range
    x, y = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None], torch.arange(8) % 2
    scale, exact = torch.linspace(0, 3, 8, dtype=torch.float64), Exact(path)
    for share in (0.3, 0.8):
        t = torch.full((8,), start + share * (end - start), dtype=torch.float64)
        a, b, _, _ = path.schedule(t[:1])
        found = path.score(t, a * x, path.predict(guided(exact, scale, exact.unconditional(y)), t, a * x, y))
        torch.testing.assert_close(found, score(a, b, a * x, y, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("solver", "steps", "atol"), [(Euler(), 600, 2e-2), (Heun(), 100, 1e-3)])
def test_many_steps_follow_the_guided_ode(solver, steps, atol):
    path, z, y = DiffusionPath(), torch.tensor([[-1.1], [0.2], [0.9]]).double(), torch.tensor([0, 1, 1])
    sampler = ManySteps(Exact(path), path, steps, solver, guidance=2.0)
    scale = torch.full((3,), 2.0).double()

    def slope(sigma, x):
        return (-sigma * score(1.0, torch.tensor(sigma), torch.from_numpy(x)[:, None], y, scale))[:, 0].numpy()

    ends = path.sigma_max, path.sigma_min
    last = torch.from_numpy(solve_ivp(slope, ends, (80 * z[:, 0]).numpy(), rtol=1e-8, atol=1e-8).y[:, -1])[:, None]
    expected = last + path.sigma_min**2 * score(1.0, torch.tensor(path.sigma_min), last, y, scale)
    torch.testing.assert_close(sampler(z, y), expected, rtol=0, atol=atol)
