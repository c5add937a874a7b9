"""The wheel holds every file that the package reads."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "realuid_lightning"


def test_every_file_beside_the_code_goes_into_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["realuid_lightning"]
    beside = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert {file.suffix for file in beside} >= {".typed", ".safetensors"}
    assert beside <= {file for pattern in patterns for file in PACKAGE.glob(pattern)}


def test_every_config_goes_into_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = project["tool"]["setuptools"]["package-data"]["realuid_lightning.configs"]
    assert set((ROOT / "configs").glob(pattern)) == set((ROOT / "configs").rglob("*.yaml"))
    assert 'package_dir={"realuid_lightning.configs": "configs"}' in (ROOT / "setup.py").read_text()
