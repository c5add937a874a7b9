"""Draws by which any number of processes train what one trains on all their rows."""

import torch

from realuid_lightning.data import Batch


class Together:
    """Mixed into a module: all processes draw alike for all rows, and each takes its own."""

    def rng(self, batch_idx):
        return torch.Generator().manual_seed(self.global_step)

    def draw(self, batch, rng, sample_t=None):
        whole = Batch(x1=torch.cat([batch.x1] * self.trainer.world_size))
        drawn, start = super().draw(whole, rng, sample_t), self.global_rank * batch.size
        mine = {name: field[start : start + batch.size] for name, field in drawn._asdict().items() if field is not None}
        return drawn._replace(**mine | {"x1": batch.x1.to(drawn.x1), "y": batch.y})
