"""``realuid completion``, as bash uses it."""

import subprocess

import pytest

from realuid_lightning.cli import COMMANDS


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    from realuid_lightning.cli.completion import all_options, script

    file = tmp_path_factory.mktemp("completion") / "realuid"
    file.write_text(script(all_options()))
    return file


def completed(script, *words):
    """What bash offers for the last of these words."""
    lines = [f"source {script}", f"COMP_WORDS=({' '.join(words)})", f"COMP_CWORD={len(words) - 1}", "_realuid"]
    run = ["bash", "-c", "; ".join([*lines, 'printf "%s\\n" "${COMPREPLY[@]}"'])]
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()


def test_commands_options_and_configs_are_completed(script):
    assert set(completed(script, "realuid", "''")) == set(COMMANDS)
    assert completed(script, "realuid", "sam") == ["sample"]
    assert completed(script, "realuid", "fit", "--model.gui") == ["--model.guidance", "--model.guide_fake"]
    assert completed(script, "realuid", "fit", "--trainer.max_st") == ["--trainer.max_steps"]
    assert completed(script, "realuid", "validate", "--see") == ["--seed_everything", "--seeds"]
    assert completed(script, "realuid", "plan", "--device_m") == ["--device_memory"]
    assert completed(script, "realuid", "sample", "last.ckpt", "--lab") == ["--labels"]
    assert completed(script, "realuid", "init", "demo/") == ["demo/distil", "demo/teacher"]
    assert completed(script, "realuid", "fit", "configs/") == []  # bash goes on with files
