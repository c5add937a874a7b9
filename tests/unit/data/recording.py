"""What tests of data modules share: a module that notes its batches, and a stand-in for a trainer."""

from types import SimpleNamespace

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import Precision


class Recorder(LightningModule):
    """Notes every batch it is given."""

    def __init__(self, micro_batches=2):
        super().__init__()
        self.micro_batches = micro_batches
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight * batch.x1.mean()

    def validation_step(self, batch, batch_idx):
        self.seen.append(batch)

    test_step = validation_step

    def predict_step(self, batch, _):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def placed(data, rank=0, world_size=1, step=0, micro_batches=1, device="cpu"):
    """Attach ``data`` to a stand-in for process ``rank`` of ``world_size``."""
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        global_step=step,
        max_steps=1,
        overfit_batches=0.0,
        accumulate_grad_batches=1,
        lightning_module=SimpleNamespace(micro_batches=micro_batches),
        strategy=SimpleNamespace(root_device=torch.device(device)),
        precision_plugin=Precision(),
    )
    return data


def together(loader, field):
    return torch.cat([getattr(batch, field) for batch in loader])
