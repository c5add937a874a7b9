"""Latents in place of images: another source, encoded once into files that are then read as memory."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from realuid_lightning.atomic import write_tensors
from realuid_lightning.conditions import Condition
from realuid_lightning.data.batch import to_floats
from realuid_lightning.data.checks import samples_at
from realuid_lightning.data.encoders import encoder_fingerprint
from realuid_lightning.data.files import reported
from realuid_lightning.data.folders import folder_at, user_cache
from realuid_lightning.data.memory import lacking
from realuid_lightning.data.sharing import by_all, by_one
from realuid_lightning.data.source import Labels, Source
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.fingerprint import NoFingerprintError, fingerprint
from realuid_lightning.recorded import Recorded

FORMAT = 1
"""Raise when the meaning of a cached file changes."""

PART = 4096
"""Samples in one file of the cache: what an interruption can cost."""

Texts = Callable[[list[str]], Condition]
"""Turns captions into conditions."""


class Latents(Source):
    """The samples of another source as an encoder sees them: encoded once, kept on disk, read from there.

    The cache is a folder named by a hash of what all of it is made of, the samples' contents and the encoder's weights
    and code, so what has changed is encoded anew. It holds files of 4,096 samples, each written whole or not at all: an
    interrupted run goes on at the first that is missing, one that was cut off since is encoded again, and several
    processes share them out. Nothing of it is held in memory but what the system keeps of files.

    Networks, paths and losses see latents. What is generated is decoded before it is measured, drawn or written, and
    compared with the source's own samples, not with decoded ones.

    Args:
        source: What is encoded; its labels or other conditions come along.
        encoder: Module with ``encode``, ``decode`` and ``latent_shape``, as an ``Encoder`` has them.
        flip: Encode each image mirrored as well, after all others: twice as many samples. The ``flip`` of a data module
            is refused, for a mirrored latent is not that of a mirrored image.
        texts: Turns the captions of ``source.texts``, a list, into conditions: a tensor, or a dict of tensors, such as
            a text encoder's output and its mask. What it returns is kept beside the latents, and it is called for each
            sample once. None: conditions are the source's own.
        batch_size: Samples in one forward of the encoder, at most, in both directions.
        cache: Folder for caches; ``latents`` in the user's cache folder when None.
        in_memory: Read the cache into memory.

    Raises:
        UserError: If encoder and source do not go together (at once), or one of them fails (when first used).

    Example:
        >>> from realuid_lightning.data import DiffusersEncoder, ImageFolder, MatchingDataModule
        >>> source = Latents(ImageFolder("photos", size=256), DiffusersEncoder("models/vae"), flip=True)
    """

    def __init__(
        self,
        source: Source,
        encoder: nn.Module,
        flip: bool = False,
        texts: nn.Module | None = None,
        batch_size: int = 32,
        cache: str | None = None,
        in_memory: bool = False,
    ) -> None:
        faults = Faults("Latents")
        lacks = [name for name in ("encode", "decode", "latent_shape") if not callable(getattr(encoder, name, None))]
        faults.unless(not lacks, f"encoder must have encode, decode and latent_shape, but it lacks {', '.join(lacks)}")
        faults.unless(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
        faults.unless(source.original is source, "source must have samples that have not been encoded before")
        faults.unless(not flip or len(source.shape) == 3, f"flip: true needs images, got shape {source.shape}")
        faults.raise_any()
        self.source, self.encoder, self.flip, self.texts_encoder = source, encoder.eval(), flip, texts
        self.batch_size, self.in_memory = batch_size, in_memory
        self.home = user_cache() / "latents" if cache is None else folder_at(cache)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent, as the encoder says."""
        return tuple(self.encoder.latent_shape(self.source.shape))  # type: ignore[operator]

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the source, or None; None with ``texts``."""
        return self.source.num_classes if self.texts_encoder is None else None

    @property
    def original(self) -> Source:
        """The source that is encoded."""
        return self.source

    def decode(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """Return the samples that latents stand for, by forwards of one size, at most ``batch_size``."""
        size = min(self.batch_size, len(x))
        filled = x[torch.arange(-(-len(x) // size) * size, device=x.device) % len(x)].float()
        decode: Callable[[Tensor], Tensor] = self.encoder.to(x.device).decode  # type: ignore[assignment]
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return torch.cat([decode(part) for part in torch.split(filled, size)])[: len(x)]

    @property
    def decoder(self) -> dict[str, Any] | None:
        """Record and fingerprint of the encoder; None of one that is not ``Recorded``."""
        if not isinstance(self.encoder, Recorded):
            return None
        return {"record": self.encoder.recorded(), "fingerprint": self.encoder_fingerprint}

    def __len__(self) -> int:
        return len(self.source) * (2 if self.flip else 1)

    def prepare(self) -> None:
        """Download the source's samples, if asked to."""
        self.source.prepare()

    def setup(self) -> None:
        """Set the source up, and encode what the cache lacks: all processes together, each its share.

        Raises:
            UserError: If the encoder fails, or gives something else than it says; or the cache cannot be written.
        """
        self.source.setup()
        vars(self)["_folder"] = by_one(self._key)
        missing = by_one(self._missing)
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        by_all(lambda: self._encode(missing[rank::processes]))
        self._encode(self._missing())  # where the folder of another machine is another one
        vars(self)["_rows"] = self._read()

    def get(self, index: Int64[Tensor, "b"]) -> tuple[Float[Tensor, "b *e"], Condition | None]:
        """Return latents and conditions."""
        return self._at("x", index), self.conditions(index)

    def labels(self) -> Labels | None:
        """Return the source's labels, or None."""
        y = self.source.labels() if self.texts_encoder is None else None
        return y if y is None or not self.flip else y.repeat(2)

    def conditions(self, index: Int64[Tensor, "b"]) -> Condition | None:
        """Return labels of the source, or the conditions that were kept."""
        labels = self.source.labels() if self.texts_encoder is None else None
        if labels is not None:
            return labels[index % len(self.source)]
        kept = {name.removeprefix("y."): self._at(name, index) for name in self._rows[0] if name.startswith("y.")}
        return kept or (self._at("y", index) if "y" in self._rows[0] else None)

    def fingerprint(self) -> str:
        """Return what the cache is named by."""
        return f"Latents-{len(self)}-{'x'.join(map(str, self.shape))}-{self._folder}"

    @cached_property
    def encoder_fingerprint(self) -> str:
        """A text that changes with what the encoder computes."""
        return encoder_fingerprint(self.encoder)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache's tensors behind: another process opens the files again."""
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    # --------------------------------------------------------------------------------------------------- the cache

    @cached_property
    def _folder(self) -> str:
        return self._key()

    def _key(self) -> str:
        """Return a hash of everything that latents and conditions depend on."""
        try:
            texts = "" if self.texts_encoder is None else fingerprint(self.texts_encoder)
            parts = [FORMAT, PART, self.source.fingerprint(), self.encoder_fingerprint, self.flip, texts]
        except NoFingerprintError as error:
            raise UserError(
                f"Latents: what is kept must be known again, but something has no fingerprint ({error}): give the "
                "class a method fingerprint() that returns a text which changes with what it computes"
            ) from error
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def _file(self, part: int) -> Path:
        return self.home / self._folder / f"{part:06d}.safetensors"

    def _missing(self) -> list[int]:
        parts = range(-(-len(self) // PART))
        return [part for part in parts if not _is_whole(self._file(part))]

    @cached_property
    def _rows(self) -> list[dict[str, Tensor]]:
        """Tensors of each part, of which the system reads what is asked for."""
        return self._read()

    def _read(self) -> list[dict[str, Tensor]]:
        lack = lacking(4 * len(self) * math.prod(self.shape)) if self.in_memory else ""
        if lack:
            raise UserError(f"Latents: in_memory is true, and latents {lack}: set in_memory: false")
        rows = []
        for part in range(-(-len(self) // PART)):
            file = self._file(part)
            try:
                rows.append(load_file(file))
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"Latents: {file} cannot be read ({error}): remove it, and it is encoded again"
                ) from error
        return [{name: part.clone() for name, part in each.items()} for each in rows] if self.in_memory else rows

    def _at(self, name: str, index: Int64[Tensor, "b"]) -> Tensor:
        rows, first = self._rows, self._rows[0][name]
        found = first.new_empty(len(index), *first.shape[1:])
        for part in torch.unique(index // PART).tolist():
            mine = index // PART == part
            found[mine] = rows[part][name].index_select(0, index[mine] % PART)
        return found

    # ------------------------------------------------------------------------------------------------- the encoding

    def _encode(self, parts: Sequence[int]) -> None:
        """Encode parts on the fastest device there is, and write each of them."""
        if not parts:
            return
        there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = there or torch.device("cpu")
        rank_zero_info(f"Latents: {len(self):,} samples are encoded, once, into {self.home / self._folder}")
        for part in reported(parts, "samples are encoded", len(parts) * PART, PART):
            made: dict[str, list[Tensor]] = {}
            last = min((part + 1) * PART, len(self))
            for start in range(part * PART, last, self.batch_size):
                index = torch.arange(start, min(start + self.batch_size, last))
                for name, tensor in self._encoded(index, device):
                    made.setdefault(name, []).append(tensor.cpu())
            try:
                tensors = {name: torch.cat(some) for name, some in made.items()}
                write_tensors(tensors, self._file(part), {"source": self.source.fingerprint()})
            except OSError as error:
                raise UserError(
                    f"Latents: the cache cannot be written ({error}): name another folder by cache"
                ) from error
        self.encoder.to("cpu")

    def _encoded(self, index: Int64[Tensor, "b"], device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Yield latents and conditions of some samples, by the names that the cache has for them."""
        mirrored, index = index >= len(self.source), index % len(self.source)
        x, y = samples_at(self.source, index)
        x = to_floats(x) if x.dtype == torch.uint8 else x
        if bool(mirrored.any()):
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        yield "x", self._checked(x.to(device))
        if self.texts_encoder is not None:
            texts = self.source.texts(index)
            if texts is None:
                raise UserError(f"Latents: texts needs captions, but {type(self.source).__name__} has none")
            with torch.no_grad():
                y = self.texts_encoder.to(device)(texts)
        elif self.source.num_classes is not None:
            return
        for name, part in ({f"y.{key}": part for key, part in y.items()} if isinstance(y, dict) else {"y": y}).items():
            if part is not None:
                yield name, part

    def _checked(self, x: Tensor) -> Tensor:
        name, expected = type(self.encoder).__name__, (len(x), *self.shape)
        with torch.no_grad():
            z = self.encoder.to(x.device).encode(x)  # type: ignore[operator]
        if not isinstance(z, Tensor) or tuple(z.shape) != expected or not z.is_floating_point():
            came = f"{z.dtype} of shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise UserError(f"Latents: {name}.encode must give numbers of shape {expected}, got {came}")
        if not bool(z.isfinite().all()):
            raise UserError(f"Latents: {name}.encode must give finite numbers, but there are NaN or infinite ones")
        return z.float()


def _is_whole(file: Path) -> bool:
    """Tell whether a file of the cache is there, and as long as its beginning says; nothing else of it is read."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except FileNotFoundError:
        return False
    except SafetensorError as error:
        rank_zero_info(f"Latents: {file} is broken ({error}), and encoded again")
        return False
    except OSError:
        return True  # who reads it says what is wrong
