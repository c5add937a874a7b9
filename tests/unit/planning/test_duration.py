"""Steps and validations, against those that a trainer makes."""

import pytest
import torch
from helpers import Counting, trainer
from torch.utils.data import DataLoader, IterableDataset

from realuid_lightning.planning.duration import training_steps, validation_count

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.ones(())


class Validated(Counting):
    """Counts validations, too."""

    def __init__(self):
        super().__init__()
        self.validations = 0

    def validation_step(self, batch, _):
        self.validations += 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3, "limit_train_batches": 4},
        {"max_epochs": 3, "limit_train_batches": 5, "accumulate_grad_batches": 2},
        {"max_epochs": 5, "limit_train_batches": 4, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "limit_train_batches": 7, "val_check_interval": 3},
        {"max_epochs": 3, "limit_train_batches": 7, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"max_epochs": 9, "max_steps": 10, "limit_train_batches": 4},
        {"max_epochs": 2, "max_steps": 10, "limit_train_batches": 4, "val_check_interval": 2},
        {"max_steps": 11, "limit_train_batches": 4, "val_check_interval": 3},
        {"max_steps": 11, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"max_steps": 11, "val_check_interval": 3},
        {"max_steps": 5, "accumulate_grad_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None},
        {"max_steps": 5},
        {"max_steps": 5, "val_check_interval": 2, "limit_val_batches": 0},
        {"max_epochs": 0, "limit_train_batches": 4},
        {"max_steps": 0},
    ],
    ids=str,
)
def test_a_run_is_as_long_as_planned(tmp_path, options):
    run, module = trainer(tmp_path, **options), Validated()
    planned = training_steps(run), validation_count(run)
    run.fit(module, DataLoader(Endless(), batch_size=None), DataLoader(torch.ones(1)))
    assert planned == (run.global_step, module.validations)


@pytest.mark.parametrize(
    ("options", "validations"),
    [
        ({"max_steps": -1, "max_epochs": -1}, 0),
        ({"max_steps": -1, "max_epochs": -1, "limit_train_batches": 4}, None),
        ({"max_time": "00:00:00:01", "val_check_interval": 2, "check_val_every_n_epoch": None}, None),
    ],
    ids=str,
)
def test_no_known_end(tmp_path, options, validations):
    run = trainer(tmp_path, **options)
    assert (training_steps(run), validation_count(run)) == (None, validations)
