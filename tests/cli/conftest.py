"""The command line, called as its console script calls it."""

import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401 - here, not in a test: its loggers keep the stderr that they find
import pytest
import yaml

from realuid_lightning.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def realuid(monkeypatch, capfd):
    """Run ``realuid WORDS`` in this process; return its exit code and what it wrote."""

    def call(*words):
        words = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["realuid", *words])
        capfd.readouterr()
        code = main()
        written = capfd.readouterr()
        return code, written.out + written.err

    return call


@pytest.fixture
def resolved(realuid):
    """Return all options of ``realuid fit WORDS``, as ``--print_config`` shows them."""

    def call(*words):
        code, written = realuid("fit", *words, "--print_config")
        assert code == 0, written
        return yaml.safe_load(written)

    return call


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder with the demo's two runs, cut short; tests may read it, and write beside the runs."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("teacher", "distil"):
            words = ["fit", "--config", str(CONFIGS / "demo" / f"{name}.yaml"), *TINY]
            patch.setattr(sys, "argv", ["realuid", *words])
            assert main() == 0
    return folder


TINY = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--data.eval_samples=40",
    "--model.network.width=32",
    "--data.batch_size=16",
    "--trainer.enable_model_summary=false",
]
