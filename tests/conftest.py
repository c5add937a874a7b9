import gc
import os

gc.disable()  # imports make millions of objects, none of them garbage: to look at them takes a quarter of the time

import jaxtyping  # noqa: E402

# Shapes and types in signatures are checked under test only, so before anything of the package is imported. Networks
# check their inputs themselves, and torch.compile does not look through the checker.
CHECKED = (
    "analysis",
    "checkpoints",
    "cli",
    "data",
    "evaluation",
    "losses",
    "metrics",
    "modules",
    "objectives",
    "optimizers",
    "paths",
    "running",
    "solvers",
    "strategies",
    "sweeping",
)
jaxtyping.install_import_hook([f"realuid_lightning.{room}" for room in CHECKED], "beartype.beartype")

import functools  # noqa: E402
import itertools  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))  # see kernels.sh
# The same examples at every run, in as much time as a busy machine needs.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

NUMBERS = itertools.count()  # of tests


def pytest_collection_modifyitems(items):
    """A cluster is waited for more than it computes: begin with it, and end with the many short tests."""
    items.sort(key=lambda item: "tests/slurm/" not in item.nodeid)


def pytest_collection_finish():
    """What imports have made stays: no collection of garbage need look at its millions of objects again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    """Let what is left be taken away in order: libraries tell of objects that outlive them."""
    gc.unfreeze()


@pytest.fixture
def cache_home(tmp_path_factory):
    """Return the folder of the caches of one test, made by what keeps something there."""
    return tmp_path_factory.getbasetemp() / "caches" / str(next(NUMBERS))


@pytest.fixture(autouse=True)
def isolated(cache_home, tmp_path_factory, monkeypatch):
    """Keep a test away from the user's cache and from the seed of another test; make nothing: most tests are short."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))  # its list of fonts, once
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that one set by the test itself is taken back, too
    monkeypatch.delenv("PL_GLOBAL_SEED")


@pytest.fixture
def signatures_unchecked(monkeypatch):
    """Check no types or shapes in a test of so many calls that checks would take a fifth of its time or more."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.fixture
def peft():
    """Skip a test where the library of adapters is missing, which takes a second to import: not while collecting."""
    pytest.importorskip("peft")


@pytest.fixture
def traced(monkeypatch):
    """Trace as torch.compile does, but run the traced operations as they are: bits are those of eager calls."""
    from torch._dynamo.utils import counters

    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compiled, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield lambda: (counters["stats"]["unique_graphs"], dict(counters["graph_break"]))
    torch._dynamo.reset()
