"""``realuid classifier``: trains a classifier whose features tell samples apart, and writes its file."""

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning import Trainer, seed_everything

from realuid_lightning.cli.building import Builder
from realuid_lightning.cli.parsing import Clear, at_home, check_configs, ours_first
from realuid_lightning.cli.training import ignore_notices
from realuid_lightning.data import MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.metrics.classifiers import ClassifierNetwork, load_classifier, save_classifier
from realuid_lightning.modules.classifier import ClassifierModule
from realuid_lightning.running import MatchingProgressBar


def classifier(words: Sequence[str]) -> None:
    """Train a classifier on ``data.source``, measure its accuracy on ``data.reference``, and write its file.

    Raises:
        UserError: If the options or the data are at fault.
        SystemExit: After ``--help`` or ``--print_config``.
    """
    ignore_notices()
    options = _built(words)
    module, data, file = options.model, options.data, Path(options.file)
    trainer = Trainer(
        max_steps=options.steps,
        precision=options.precision,
        devices=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[MatchingProgressBar()],
    )
    with warnings.catch_warnings():  # the data's latents for validation are of no use here, and not asked for
        warnings.filterwarnings("ignore", "You passed in a `val_dataloader` but have no `validation_step`")
        trainer.fit(module, data)
    network = module.network.eval()
    about = {
        "command": shlex.join(["realuid", "classifier", *words]),
        "trained_on": f"{options.about} ({data.source.fingerprint()})",
        "held_out": data.reference_fingerprint,
    }
    save_classifier(network, file, about)  # which halves precision: accuracy is that of what was written
    load_classifier(network, file)
    about["accuracy"] = f"{accuracy(network, data):.4f}"
    save_classifier(network, file, about)
    print(f"{file}: written; accuracy {about['accuracy']} on {len(data.reference)} held-out images")


def _built(words: Sequence[str]) -> Namespace:
    """Parse words and configs, and build what they name.

    Raises:
        UserError: With all faults.
    """
    check_configs(words)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # sources of the user's own, named by path in a config
    parser = Clear(prog="realuid classifier", description="Train a classifier for ClassifierFeatures.")
    parser.add_argument("-c", "--config", action="config", help="YAML config; repeat it to override field by field")
    parser.add_class_arguments(ClassifierModule, "model")
    parser.add_class_arguments(MatchingDataModule, "data")
    parser.set_defaults({"data.labels": True})
    parser.add_argument("--steps", type=PositiveInt, required=True, help="updates of the network")
    parser.add_argument(
        "--precision", type=Literal["32-true", "bf16-mixed"], default="32-true", help="of the training's arithmetic"
    )
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="of weights, shifts and order")
    parser.add_argument("--file", type=str, required=True, help=".safetensors file to create or replace")
    parser.add_argument("--about", type=str, required=True, help="what the training data are, for the file's header")
    with ours_first():
        options = at_home(parser.parse_args(list(words)))
    builder = Builder()
    parser.add_instantiator(builder.build, object, subclasses=True)
    seed_everything(options.seed, verbose=False)
    built: Namespace = parser.instantiate(options)
    builder.finish()
    if built.data.reference is built.data.source:
        raise UserError("classifier: data.reference must hold other images than data.source: accuracy is that on them")
    return built


@torch.no_grad()
def accuracy(network: ClassifierNetwork, data: MatchingDataModule) -> float:
    """Return the share of the reference that a classifier recognises."""
    right = 0
    for coded in data.reference_dataloader():
        batch = data.on_after_batch_transfer(coded, 0)
        right += int((network(batch.x1).argmax(1) == batch.y).sum())
    return right / len(data.reference)
