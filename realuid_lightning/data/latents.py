"""What evaluation generates from: latents, source ends and conditions, each a function of the sample's index alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from realuid_lightning.conditions import Condition
from realuid_lightning.data.batch import Batch
from realuid_lightning.data.checks import conditions_at, gives_conditions, samples_at
from realuid_lightning.data.source import Labels, Source
from realuid_lightning.seeding import mix, mix_array

# What a draw is for; keys of its own for each purpose.
LATENT = 0x1A7E27
LABEL = 0x1ABE1
SEED = 0x5EED

Conditions = Callable[[Int64[Tensor, "b"], Int64[Tensor, "b"]], Condition]
"""Gives generated samples their conditions, by their indices and keys."""


class LatentDataset(Dataset[Batch]):
    """Evaluation latents ``z ~ N(0, I)``, conditions and source ends of the samples of some indices.

    Args:
        indices: Global sample indices, ``(n,)``.
        shape: Shape of one latent.
        conditions: Gives the samples' conditions, if there are any; it is sent to loader processes.
        origin: Where ``x0`` comes from, if anywhere: global index i has sample ``i % len(origin)``.
        truth: Where ``x1`` comes from in the same way, if anywhere: what the samples should have become.
        seed: Which latents the indices have.
    """

    def __init__(
        self,
        indices: Int64[Tensor, "n"],
        shape: tuple[int, ...],
        conditions: Conditions | None = None,
        origin: Source | None = None,
        truth: Source | None = None,
        seed: int = 0,
    ) -> None:
        self.indices, self.shape, self.conditions, self.origin, self.truth = indices, shape, conditions, origin, truth
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, places: Sequence[int]) -> Batch:
        """Return what is at ``places``: ``z`` float32 ``(B, *shape)``, ``index``, ``key``, and others if any."""
        index = self.indices[list(places)]
        key = keys(index, self.seed)
        z, generator = torch.empty(len(index), *self.shape), torch.Generator()
        for row, k in zip(z, key.tolist(), strict=True):
            row.normal_(generator=generator.manual_seed(mix(LATENT, k)))
        y = None if self.conditions is None else self.conditions(index, key)
        return Batch(x1=_around(self.truth, index), y=y, x0=_around(self.origin, index), z=z, index=index, key=key)


@dataclass(frozen=True)
class Generation:
    """Which data sets generated samples take their conditions, source ends and truths from.

    Attributes:
        source: Real samples of training.
        reference: What evaluation compares with.
        described: What gives conditions that are no class labels: ``reference``, or the latents of it.
        origin: Source ends of evaluation, if there are any.
        paired: Whether sample i of ``reference`` is what sample i of ``origin`` should become.
        labels: Whether there are conditions.
        sampled: Draw conditions, where ``origin`` has none, instead of taking them in order.
        seed: Which latents, and which drawn conditions, the indices have.
    """

    source: Source
    reference: Source
    described: Source
    origin: Source | None
    paired: bool
    labels: bool
    sampled: bool
    seed: int = 0

    @property
    def condition_source(self) -> Source | None:
        """The data set that gives conditions, once ``origin`` is set up; None for balanced labels, or for none."""
        if self.labels and self.origin is not None and gives_conditions(self.origin):
            return self.origin
        return self.condition_source_beside_origin

    @property
    def condition_source_beside_origin(self) -> Source | None:
        """The same where ``origin`` gives none."""
        if self.labels and self.source.num_classes is None:
            return self.described
        return self.source if self.labels and self.sampled else None

    def dataset(self, indices: Int64[Tensor, "n"], with_truth: bool) -> LatentDataset:
        """Return what the samples of ``indices`` are made from, and what they should become if that is known."""
        known = with_truth and self.paired and self.origin is not None and len(self.origin) == len(self.reference)
        truth = self.reference if known else None
        return LatentDataset(indices, self.source.shape, self._conditions(), self.origin, truth, self.seed)

    def _conditions(self) -> Conditions | None:
        giver = self.condition_source
        if giver is not None:
            drawn = self.sampled and giver is not self.origin
            return partial(sampled_conditions if drawn else own_conditions, source=giver)
        return partial(balanced_labels, num_classes=self.source.num_classes or 1) if self.labels else None


def keys(index: Int64[Tensor, "b"], seed: int) -> Int64[Tensor, "b"]:
    """Return what all that is random of each sample is a function of: the index for seed 0, else a hash of both."""
    if seed == 0:
        return index
    return torch.from_numpy((mix_array(mix(SEED, seed), index.numpy()) >> np.uint64(1)).astype(np.int64))


def balanced_labels(index: Int64[Tensor, "b"], key: Int64[Tensor, "b"], num_classes: int) -> Labels:  # noqa: ARG001
    """Return ``index % num_classes``."""
    return index % num_classes


def own_conditions(index: Int64[Tensor, "b"], key: Int64[Tensor, "b"], source: Source) -> Condition:  # noqa: ARG001
    """Return the conditions of the samples at ``index`` of a source that begins anew after its end."""
    return conditions_at(source, index % len(source))


def sampled_conditions(index: Int64[Tensor, "b"], key: Int64[Tensor, "b"], source: Source) -> Condition:  # noqa: ARG001
    """Return for each sample the condition of one of the source's samples, drawn by the key alone."""
    drawn = mix_array(mix(LABEL), key.numpy()) % np.uint64(len(source))
    return conditions_at(source, torch.from_numpy(drawn.astype(np.int64)))


def _around(source: Source | None, index: Int64[Tensor, "b"]) -> Tensor | None:
    """Return the samples at ``index`` of a source that begins anew after its end."""
    return None if source is None else samples_at(source, index % len(source))[0]
