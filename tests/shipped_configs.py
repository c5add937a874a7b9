"""The configs that ship, by what they are: whole ones, those that go behind others, those of classifiers."""

from pathlib import Path

import yaml

CONFIGS = Path(__file__).parents[1] / "configs"


def _found(pattern):
    return sorted(file.relative_to(CONFIGS) for file in CONFIGS.glob(pattern))


ROWS, FINETUNED = _found("experiments/rows/*"), _found("experiments/*/finetune*.yaml")
OVERLAYS = [Path("fast.yaml"), *ROWS, *FINETUNED]
CLASSIFIERS = _found("features/*")
"""Those that no fit trains."""

FILES = sorted({*_found("**/*.yaml")} - {*OVERLAYS, *CLASSIFIERS})


def _named(value):
    """Yield names of classes, and of switches that are on."""
    if isinstance(value, dict):
        for option, part in value.items():
            yield from [option] if part is True else _named(part)
    elif isinstance(value, list):
        for part in value:
            yield from _named(part)
    elif isinstance(value, str) and value.isidentifier():
        yield value


def kind(model):
    """What a module is made of, whatever its numbers are."""
    options = [name for name, value in model["init_args"].items() if not isinstance(value, float)]
    return frozenset([*_named(model), *options])


def _differing(configs, has):
    """Return the files of configs of which each has something that none before it has."""
    seen, kept = set(), []
    for file, config in configs.items():
        if not (found := has(config)) <= seen:
            kept.append(file)
            seen |= found
    return kept


_CONTENTS = {file: yaml.safe_load((CONFIGS / file).read_text()) for file in FILES}
KINDS = _differing(_CONTENTS, lambda config: {kind(config["model"]), *_named({**config, "model": None})})
"""Configs of which every other differs from one in numbers and by what others have as well."""
MADE = _differing(
    {file: _CONTENTS[file] for file in KINDS},
    lambda config: {(config["model"]["class_path"], name) for name in _named(config["model"])},
)
"""Those whose kind of module has a class or a switch that none before has with it."""
OTHERS = [file for file in FILES if file not in MADE]
