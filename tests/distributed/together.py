"""Draws by which any number of processes train what one trains on all their rows."""

import torch

from realuid_lightning.data import Batch


class Together:
    """Mixed into a module: all processes draw alike for all rows, and each takes its own."""

    def rng(self, batch_idx):
        return torch.Generator().manual_seed(self.global_step)

    def draw(self, batch, rng, sample_t=None):
        whole = Batch(x1=torch.cat([batch.x1] * self.trainer.world_size))
        start = self.global_rank * batch.size
        mine = super().draw(whole, rng, sample_t).rows(slice(start, start + batch.size))
        return mine._replace(x1=batch.x1.to(mine.x1), y=batch.y)
