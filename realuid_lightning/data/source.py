"""What a data set must offer: samples by index, their conditions if they have any, and a name for what they are."""

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from realuid_lightning import conditions
from realuid_lightning.conditions import Condition

Samples = UInt8[Tensor, "b c h w"] | Float32[Tensor, "b *d"]
Labels = Int64[Tensor, "b"]


class Source(ABC):
    """A finite set of real samples, addressed by index.

    A source of your own subclasses this (or ``MemorySource``, with two methods) and is named in YAML by its class
    path. Constructing one is cheap: it checks arguments and reads nothing.

    Samples may come with conditions. Class labels need ``num_classes`` and ``labels``. Conditions of any other form, a
    tensor or a dict of tensors such as text embeddings and their mask, are given by ``get`` alone; ``conditions`` is
    overridden where they can be had without reading the samples. All batches have the same keys, types and sizes.

    Attributes:
        in_memory: Whether ``get`` only reads memory, so that loader workers cannot speed it up, and all samples may
            be held on a device.

    Example:
        >>> class Ramp(MemorySource):
        ...     shape, num_classes = (2,), None
        ...     def load(self):
        ...         return torch.linspace(0, 1, 64)[:, None].expand(64, 2), None
        >>> source = Ramp()
        >>> source.setup()
        >>> len(source)
        64
    """

    in_memory: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(C, H, W)`` or ``(D,)``; known before any data is read."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None when samples have no class labels."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def get(self, index: Int64[Tensor, "b"]) -> tuple[Samples, Condition | None]:
        """Return samples and their conditions.

        Args:
            index: Indices in [0, len(self)), in any order, repeats allowed.

        Returns:
            Images as uint8 in 0..255, ``(B, C, H, W)``, or vectors as float32, ``(B, *D)``; and labels ``(B,)`` in
            [0, num_classes), a tensor ``(B, ...)``, a dict of such tensors, or None.

        Raises:
            UserError: If a sample cannot be read; the message names it.
        """

    def labels(self) -> Labels | None:
        """Return the class labels of all samples, without reading the samples, or None."""
        return None

    def conditions(self, index: Int64[Tensor, "b"]) -> Condition | None:
        """Return the conditions that ``get`` gives, without reading samples that have class labels."""
        labels = self.labels()
        return self.get(index)[1] if labels is None else labels[index]

    def texts(self, index: Int64[Tensor, "b"]) -> list[str] | None:
        """Return the samples' captions, or None: what a text encoder makes conditions of (``Latents``)."""
        del index
        return None

    @property
    def original(self) -> "Source":
        """What figures compare with: this source, or the one whose samples it has encoded."""
        return self

    def decode(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *e"]:
        """Return generated samples, ``(B, *shape)``, as those of ``original``, to be measured and drawn."""
        return x

    @property
    def decoder(self) -> dict[str, Any] | None:
        """What ``decode`` does, for checkpoints: ``record`` of an encoder and its ``fingerprint``; or None."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short text, fit for a file name, that changes when the data change."""

    def prepare(self) -> None:
        """Download what is missing, if asked to; called by one process only."""
        return

    def setup(self) -> None:
        """Read what is to be held in memory; called by every process, after ``prepare``.

        Raises:
            UserError: If the data are missing.
        """
        return

    def _named(self, digest: str, *arguments: object) -> str:
        """Join class, arguments, size, sample shape and content hash into a fingerprint."""
        shape = "x".join(str(length) for length in self.shape)
        return "-".join(
            [type(self).__name__, *(str(argument) for argument in arguments), str(len(self)), shape, digest[:12]]
        )


class MemorySource(Source):
    """A source that is read once and held as tensors: implement ``shape`` and ``load``, and ``num_classes`` if any."""

    in_memory = True

    @abstractmethod
    def load(self) -> tuple[Samples, Condition | None]:
        """Return all samples and conditions, in the types of ``get``; called once."""

    @cached_property
    def _data(self) -> tuple[Samples, Condition | None]:
        return self.load()

    def setup(self) -> None:
        """Read the data, unless that has been done."""
        self.__len__()

    def __len__(self) -> int:
        return len(self._data[0])

    def get(self, index: Int64[Tensor, "b"]) -> tuple[Samples, Condition | None]:
        """Return the samples and conditions at ``index``."""
        # Several times as fast as x[index] for rows of bytes.
        return self._data[0].index_select(0, index), self.conditions(index)

    def labels(self) -> Labels | None:
        """Return all class labels, or None."""
        y = self._data[1]
        return None if self.num_classes is None or isinstance(y, dict) else y

    def conditions(self, index: Int64[Tensor, "b"]) -> Condition | None:
        """Return the conditions at ``index``."""
        return conditions.rows(self._data[1], index)

    def fingerprint(self) -> str:
        """Return class, size, shape and a hash of every sample and condition."""
        digest = hashlib.sha256()
        for tensor in (self._data[0], *conditions.tensors(self._data[1])):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return self._named(digest.hexdigest())
