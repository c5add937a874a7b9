"""Objectives named on the command line and in YAML, by their short names."""

import pytest
import yaml


@pytest.fixture
def config(tmp_path):
    """Write a config with an objective, or without, and return its file."""

    def write(objective=None):
        mlp = {"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [1, 8, 8], "width": 16}}
        options = {"network": mlp, "teacher_ckpt": None, "objective": objective}
        data = {"class_path": "MatchingDataModule", "init_args": {"source": "Digits", "batch_size": 4}}
        trainer = {"max_steps": 1, "limit_val_batches": 0, "default_root_dir": str(tmp_path / "run")}
        model = {"class_path": "RealUIDModule", "init_args": options}
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
        return file

    return write


def objective(written):
    return yaml.safe_load(written)["model"]["init_args"]["objective"]


def test_an_objective_in_parts_is_named_part_by_part(config, realuid):
    words = ["--model.objective", "Adversarial", "--model.objective.objective", "RealUID"]
    words += ["--model.objective.objective.alpha", "0.98", "--model.objective.gan", "R1GAN"]
    words += ["--model.objective.gan.gamma", "0.1", "--print_config"]
    code, written = realuid("fit", "-c", config(), *words)
    assert code == 0, written
    parts = objective(written)["init_args"]
    assert parts["objective"]["class_path"] == "realuid_lightning.objectives.RealUID"
    assert parts["objective"]["init_args"]["alpha"] == 0.98
    assert parts["gan"]["class_path"] == "realuid_lightning.objectives.R1GAN"
    assert parts["gan"]["init_args"]["gamma"] == 0.1


def test_a_mixture_with_a_schedule_trains_and_its_config_is_read_back(config, tmp_path, realuid):
    sid = {"class_path": "RealUID", "init_args": {"divergence": {"class_path": "SiD", "init_args": {"alpha_sid": 1.0}}}}
    sida = {"class_path": "Adversarial", "init_args": {"objective": sid, "gan": "SiDAdversary"}}
    parts = [{"class_path": "RealUID"}, sida]
    mixture = {"class_path": "Mixture", "init_args": {"objectives": parts, "weights": {0: [1, 0], 100: [1, 1]}}}
    code, written = realuid("fit", "-c", config(mixture))
    assert code == 0, written
    saved = tmp_path / "run" / "config.yaml"
    weights = objective(saved.read_text())["init_args"]["weights"]
    assert {int(step): shares for step, shares in weights.items()} == {0: [1.0, 0.0], 100: [1.0, 1.0]}
    code, printed = realuid("fit", "-c", saved, "--print_config")
    assert code == 0, printed
    assert objective(printed) == objective(saved.read_text())


def test_weights_that_fit_no_parts_are_told_in_one_line(config, realuid):
    wrong = {"objectives": [{"class_path": "RealUID"}], "weights": [1, 2]}
    code, written = realuid("fit", "-c", config({"class_path": "Mixture", "init_args": wrong}))
    assert code == 2
    assert "Mixture: weights must be at least 0, not all of them 0, one for each of 1 objectives" in written
    assert "Traceback" not in written
