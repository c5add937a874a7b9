"""A schedule that is null keeps the rate: on the command line, in YAML, over another config, and in the saved one."""

import pytest
import yaml
from shipped_configs import CONFIGS

from realuid_lightning.cli.plan import checked_fit

SCHEDULES = {"teacher": ["schedule"], "distil": ["fake_schedule", "generator_schedule"]}


def rates(module, names):
    """The factors of the first updates, of each schedule."""
    found = module.configure_optimizers()
    schedules = [found["lr_scheduler"]["scheduler"]] if isinstance(found, dict) else found[1]
    assert len(schedules) == len(names)
    return {schedule.lr_lambdas[0](update) for schedule in schedules for update in (0, 1, 10**6)}


@pytest.mark.parametrize("said", ["typed", "over another config", "in the only config"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_null_keeps_the_rate(name, said, tmp_path):
    file, names = CONFIGS / "toy2d" / f"{name}.yaml", SCHEDULES[name]
    own = yaml.safe_load(file.read_text())
    assert all(own["model"]["init_args"][each]["class_path"] == "LinearDecay" for each in names)
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump({"model": {"init_args": dict.fromkeys(names)}}))
    alone = tmp_path / "alone.yaml"
    own["model"]["init_args"].update(dict.fromkeys(names))
    alone.write_text(yaml.safe_dump(own))
    words = {
        "typed": ["--config", str(file), *(f"--model.{each}=null" for each in names)],
        "over another config": ["--config", str(file), "--config", str(over)],
        "in the only config": ["--config", str(alone)],
    }
    assert rates(checked_fit(words[said]).model, names) == {1.0}


def test_a_config_that_is_printed_says_null_still(resolved):
    options = resolved("--config", CONFIGS / "toy2d" / "teacher.yaml", "--model.schedule=null")
    assert options["model"]["init_args"]["schedule"] is None
