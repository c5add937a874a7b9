"""Networks of the library diffusers, called as ours are."""

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from realuid_lightning.conditions import Condition
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.networks.inputs import check_inputs
from realuid_lightning.recorded import Recorded

_HOMES = ("diffusers.models.unets.", "diffusers.models.transformers.")
_NEEDED = ("encoder_hidden_states", "pooled_projections")
"""Arguments that a network cannot do without, whatever its signature says."""


class DiffusersNetwork(Recorded, nn.Module):
    """A UNet or transformer of diffusers (extra ``diffusers``), of which a checkpoint keeps the config.

    ``load_diffusers`` fills one from a folder; with a config alone, weights are new. State-dict keys are ``model.*``,
    the library's own behind it. Labels are never dropped at random in training, as ``DiTTransformer2DModel`` does by
    itself. There is no middle for a GAN's head.

    Args:
        config: The content of the model's ``config.json``: ``_class_name`` and arguments of that class.
        shape: Shape of a sample, channels first; from ``in_channels``, ``out_channels`` and ``sample_size`` of the
            config when None. Output channels beyond it, which tell variances, are dropped.
        checkpoint: Recompute activations in the backward pass, as the library does it.
        null: The label that stood for none when the network was trained, which guidance asks for; the last of its
            table, and then no class. ``DiTTransformer2DModel`` says its own.

    Attributes:
        condition_channels: Input channels beyond those of a sample, as networks for inpainting have them.
        num_classes: Number of classes, for a network whose only condition is the label.
        conditions: Names of further conditions that the network cannot do without.

    Raises:
        UserError: If diffusers is not installed, the class is no UNet or transformer of it, or refuses its arguments;
            or ``null`` is not the last label.

    Example:
        >>> sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "norm_num_groups": 8}
        >>> blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8]}
        >>> network = DiffusersNetwork({"_class_name": "UNet2DModel", **sizes, **blocks})
        >>> network.shape
        (1, 8, 8)
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        shape: Sequence[int] | None = None,
        checkpoint: bool = False,
        null: int | None = None,
    ) -> None:
        super().__init__()
        self.model = _built(config)
        takes = inspect.signature(self.model.forward).parameters
        faults = Faults(f"DiffusersNetwork of {type(self.model).__name__}")
        faults.unless("timestep" in takes, "it must be told a timestep, which its forward has not")
        learned = config.get("time_embedding_type") == "learned"
        faults.unless(not learned, "time_embedding_type learned knows whole steps only; choose positional")
        known = _shape(config)
        faults.unless(
            shape is not None or known is not None,
            "shape must be given, for the config does not tell it by in_channels and sample_size",
        )
        faults.unless(
            shape is None or known is None or tuple(shape) == known,
            f"shape must be that of the config, {known}, got {shape}; in_channels, out_channels and sample_size say it",
        )
        classes = _classes(config, list(takes))
        faults.unless(
            null is None or null == (classes or 0) - 1,
            f"null must be the last of the labels that the config counts, got {null} of {classes or 'none'}",
        )
        faults.raise_any()
        self.shape: tuple[int, ...] = tuple(shape or known or ())
        self._takes = [name for name in list(takes)[1:] if name not in ("timestep", "return_dict")]
        self.conditions = [name for name in self._takes if name in _NEEDED]
        self.null = null
        self.num_classes = None if self.conditions or classes is None else classes if null is None else null
        labelled = self.num_classes is not None or config.get("class_embed_type") is not None
        self._tensor = (*self.conditions, *(["class_labels"] if labelled else []), None)[0]
        inputs, outputs = config.get("in_channels"), config.get("out_channels")
        self.condition_channels = inputs - outputs if inputs and outputs and outputs < inputs else 0
        if checkpoint:
            self.model.enable_gradient_checkpointing()

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b i *d"], y: Condition | None = None
    ) -> Float[Tensor, "b c *d"]:
        """Return what the network predicts.

        Args:
            t: Time of each sample, in the network's unit.
            x: Points on the path, ``(B, *shape)``, with further channels behind if it takes them.
            y: A dict of tensors, each named as the argument of the network's own ``forward`` that it goes to, such as
                ``encoder_hidden_states``; names that it lacks go to ``added_cond_kwargs`` if it has those, as SDXL's. A
                tensor alone is the first of ``conditions``, or else the labels.

        Raises:
            UserError: If shapes do not fit, or conditions are missing or superfluous.
        """
        told = {} if y is None else y if isinstance(y, dict) else {self._tensor or "class_labels": y}
        labels = told.get("class_labels") if self.num_classes is not None or self._tensor is None else None
        check_inputs(self.shape, self.condition_channels, self.num_classes, t, x, labels)
        raw: Tensor = self.model(x, timestep=t, return_dict=False, **self._arguments_of(told))[0]
        return raw[:, : self.shape[0]].to(x.dtype)

    def unconditional(self, y: Condition) -> Condition:
        """Return the label that stands for none, as many times as there are labels ``y``, for a network that has one.

        Raises:
            UserError: If the config does not tell that there is one.
        """
        if self.null is not None and not isinstance(y, dict):
            return torch.full_like(y, self.null)
        table = next((part for part in self.model.modules() if type(part).__name__ == "LabelEmbedding"), None)
        if table is None or len(table.embedding_table.weight) == self.num_classes or isinstance(y, dict):
            raise UserError(f"{type(self.model).__name__} does not tell what stands for no condition")
        return torch.full_like(y, table.num_classes)

    def _arguments_of(self, told: dict[str, Tensor]) -> dict[str, Any]:
        """Return the condition as arguments of the network's own ``forward``."""
        added = {name: value for name, value in told.items() if name not in self._takes}
        missing = [name for name in self.conditions if name not in told]
        if missing or (added and "added_cond_kwargs" not in self._takes):
            raise UserError(
                f"y must be a dict of tensors for {type(self.model).__name__}, with {self.conditions or 'nothing'} in "
                f"it, and else arguments of its forward ({', '.join(self._takes)}), got {list(told)}"
            )
        kept: dict[str, Any] = {name: value for name, value in told.items() if name not in added}
        return {**kept, "added_cond_kwargs": added} if added else kept


def library() -> Any:
    """Return the module ``diffusers``.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            f"a network of diffusers needs that library ({error}): pip install 'realuid-lightning[diffusers]'"
        ) from error
    return diffusers


def model_class(name: Any) -> Any:
    """Return the UNet or transformer of diffusers that has this name.

    Raises:
        UserError: If there is none, or diffusers is not installed.
    """
    found = None
    if isinstance(name, str) and name in dir(library()):  # which are its own: no name leads a stranger anywhere else
        with contextlib.suppress(Exception):  # what its own parts raise that lack a library of theirs
            found = getattr(library(), name)
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__.startswith(_HOMES)):
        raise UserError(f"_class_name must be a UNet or transformer of diffusers, such as UNet2DModel, got {name!r}")
    return found


@contextlib.contextmanager
def batches_of_any_size() -> Iterator[None]:
    """Let ``torch.export`` follow the library's upsampling for any number of samples, inside a ``with`` block.

    The library asks whether there are 64 samples, or 2**31 numbers, to lay out memory; a program would be held to the
    answer. Its samples are those of the generator in either case. Without the library, nothing happens.
    """
    upsampling: Any = sys.modules.get("diffusers.models.upsampling")
    if upsampling is None:
        yield
        return
    theirs = upsampling.Upsample2D.forward

    def forward(self: Any, x: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self.norm is not None or self.use_conv_transpose or not self.interpolate:
            return theirs(self, x, output_size, *args, **kwargs)
        size: dict[str, Any] = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
        x = F.interpolate(x, mode="nearest", **size)
        return (self.conv if self.name == "conv" else self.Conv2d_0)(x) if self.use_conv else x

    upsampling.Upsample2D.forward = forward
    try:
        yield
    finally:
        upsampling.Upsample2D.forward = theirs


def _built(config: Mapping[str, Any]) -> Any:
    """Build the model, with new weights, that a config describes."""
    made = model_class(config.get("_class_name"))
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    unknown = sorted(set(arguments) - set(inspect.signature(made.__init__).parameters))
    if unknown:
        raise UserError(f"{made.__name__} of this version of diffusers knows no {', '.join(unknown)}: update it")
    try:
        model = made(**arguments)
    except Exception as error:
        raise UserError(f"{made.__name__} refuses its config: {type(error).__name__}: {error}") from error
    for part in model.modules():
        if type(part).__name__ == "LabelEmbedding":
            part.dropout_prob = 0.0  # labels are dropped by who draws, if at all
    return model


def _shape(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of a sample, if the config tells it."""
    inputs, size = config.get("in_channels"), config.get("sample_size")
    if not isinstance(inputs, int) or not size:
        return None
    outputs = config.get("out_channels") or inputs
    return (min(inputs, outputs), *(size if isinstance(size, (list, tuple)) else (size, size)))


def _classes(config: Mapping[str, Any], takes: Sequence[str]) -> int | None:
    """Return the number of classes of a network that looks its labels up in a table."""
    if "class_labels" not in takes or config.get("class_embed_type") is not None:
        return None
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    return int(classes) if classes else None
