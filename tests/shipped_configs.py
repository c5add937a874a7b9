"""The configs that ship, by what they are: whole ones, those that go behind others, those of classifiers."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def _found(pattern):
    return sorted(file.relative_to(CONFIGS) for file in CONFIGS.glob(pattern))


ROWS, FINETUNED = _found("experiments/rows/*"), _found("experiments/*/finetune.yaml")
OVERLAYS = [Path("fast.yaml"), *ROWS, *FINETUNED]
CLASSIFIERS = _found("features/*")
"""Those that no fit trains."""

FILES = sorted({*_found("**/*.yaml")} - {*OVERLAYS, *CLASSIFIERS})
