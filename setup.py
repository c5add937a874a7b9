"""What pyproject.toml cannot say: the configs lie beside the package in a clone, and within it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["realuid_lightning*"]), "realuid_lightning.configs"],
    package_dir={"realuid_lightning.configs": "configs"},
)
