"""``realuid init`` brings the shipped configs, in a clone and from a wheel alike."""

import re
import shutil
from pathlib import Path

import pytest

import realuid_lightning
from realuid_lightning.cli.init import names

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def there(folder):
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())


def test_without_a_name_it_lists_all_of_them_by_their_headers(realuid):
    code, written = realuid("init")
    assert code == 0
    lines = written.splitlines()
    assert len(lines) == len(list(CONFIGS.rglob("*.yaml"))) == len(names())
    assert next(line for line in lines if line.startswith("cifar_uncond ")).endswith(
        "  RealUID on CIFAR-10 without labels."
    )
    assert all(line.partition(" ")[2].strip() for line in lines)
    assert not there(".")


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("demo/teacher", ["demo/teacher"]),
        ("configs/demo/distil.yaml", ["demo/distil", "demo/teacher"]),
        ("fast", ["cifar_uncond", "fast", "teacher/cifar_uncond"]),
        (
            "experiments/fashion_mnist/finetune",
            [f"experiments/{each}" for each in ("fashion_mnist/distil", "fashion_mnist/finetune", "rows/realuid")],
        ),
        ("finetune_cifar_uncond", ["cifar_uncond", "finetune_cifar_uncond", "teacher/cifar_uncond"]),
    ],
)
def test_a_config_comes_with_those_that_it_begins_with(realuid, name, needed):
    code, written = realuid("init", name)
    assert code == 0, written
    assert there("configs") == sorted(f"{each}.yaml" for each in needed)
    for each in needed:
        assert (Path("configs") / f"{each}.yaml").read_bytes() == (CONFIGS / f"{each}.yaml").read_bytes()


@pytest.mark.parametrize("name", names())
def test_every_file_that_its_commands_name_comes_along(name, realuid):
    code, written = realuid("init", name)
    assert code == 0, written
    named = re.findall(r"configs/\S+\.yaml(?!:)", written)
    assert f"configs/{name}.yaml" in named
    assert all(Path(file).is_file() for file in named)


def test_it_tells_what_to_run_in_order(realuid):
    written = realuid("init", "demo/distil")[1].splitlines()
    assert written == [
        "configs/demo/teacher.yaml: written",
        "configs/demo/distil.yaml: written",
        "realuid fit --config configs/demo/teacher.yaml",
        "realuid fit --config configs/demo/distil.yaml",
    ]


def test_what_was_edited_stays(realuid):
    realuid("init", "demo/distil")
    edited = Path("configs/demo/teacher.yaml")
    edited.write_text("trainer: {max_steps: 1}\n")
    Path("configs/demo/distil.yaml").unlink()
    code, written = realuid("init", "demo/distil")
    assert code == 2
    assert "configs/demo/teacher.yaml: there already, with changes" in written
    assert there("configs") == ["demo/teacher.yaml"]
    shutil.copy(CONFIGS / "demo/teacher.yaml", edited)
    assert "configs/demo/teacher.yaml: there already" in realuid("init", "demo/distil")[1]


def test_in_a_wheel_they_lie_within_the_package(realuid, tmp_path, monkeypatch):
    installed = tmp_path / "site" / "realuid_lightning"
    shutil.copytree(CONFIGS / "toy2d", installed / "configs" / "toy2d")
    monkeypatch.setattr(realuid_lightning, "__file__", str(installed / "__init__.py"))
    assert [line.split()[0] for line in realuid("init")[1].splitlines()] == ["toy2d/distil", "toy2d/teacher"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar", "init: no config is named cifar; there are cifar_cond, cifar_uncond, "),
        ("imagenet", "init: no config is named imagenet; realuid init lists them all"),
        ("../pyproject", "init: no config is named ../pyproject"),
    ],
)
def test_an_unknown_name_is_told(realuid, name, message):
    code, written = realuid("init", name)
    assert code == 2
    assert message in written
    assert not there(".")
