"""Roles that train small adapters on the teacher's weights, which they share with it (LoRA, arXiv 2106.09685)."""

import copy
import fnmatch
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from realuid_lightning.errors import Faults, UserError

ADAPTER = "distilled"
"""Name of the adapters: layers are ``X.lora_A.distilled`` and ``X.lora_B.distilled``, beside ``X.base_layer``."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRA:
    """Makes a role of the teacher's network: ``W + B A`` in place of each chosen weight ``W``, which is frozen.

    Stands in place of a ``fake_network`` or a ``generator_network``. All weights of the teacher are shared, not copied,
    so that a role costs the memory of its adapters, and of what optimizer and averages keep for these. ``B`` starts at
    zero: each role begins as the teacher, exactly. Layers are peft's (extra ``lora``), with an ``alpha`` of ``rank``,
    which leaves the size of steps to the learning rate. ``load_generator``, and so exports, multiply out and add: a
    generator leaves as a network like the teacher, without peft.

    Args:
        rank: Rows of ``A`` and columns of ``B``, at least 1.
        target: Shell-style patterns of names of layers to adapt, such as ``*.qkv`` or ``blocks.*``. Linear layers and
            convolutions can be adapted, unless they are grouped, dilated or wrapped at the edges, bear further
            arguments than torch's own, or are tied to another layer; ``*`` takes all of these.

    Raises:
        UserError: If arguments are out of range.

    Example:
        >>> LoRA(rank=8, target=["*.qkv", "*.proj_out"]).rank
        8
    """

    def __init__(self, rank: int = 8, target: Sequence[str] = ("*",)) -> None:
        faults = Faults("LoRA")
        faults.unless(rank >= 1, f"rank must be at least 1, got {rank}")
        listed = not isinstance(target, str)  # whose letters would be the patterns
        faults.unless(listed, f"target must be a list, such as [{target!r}], got {target!r}")
        faults.unless(len(target) > 0, "target must hold a pattern of layers at least, such as '*', got none")
        faults.raise_any()
        self.rank, self.target = rank, list(target)

    def adapt(self, network: nn.Module) -> nn.Module:
        """Return a network that shares the weights of another one, which are frozen, and trains adapters of its own.

        It is in training mode. Buffers, such as running statistics, are copied. Adapters begin from torch's global
        generator.

        Args:
            network: The network whose weights are shared; its layers stay as they are.

        Raises:
            UserError: If peft is not installed, or a pattern names no layer that can be adapted.
        """
        chosen = self._chosen(network)
        try:
            from peft import LoraConfig, inject_adapter_in_model
            from peft.tuners.lora import LoraLayer
        except ImportError as error:
            raise UserError(f"LoRA needs peft ({error}): pip install 'realuid-lightning[lora]'") from error
        adapted = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
        exactly = "|".join(map(re.escape, chosen))  # a list would also choose layers whose names end so
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=exactly)
        inject_adapter_in_model(config, adapted, ADAPTER)
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = False  # autocast has chosen the type of activations
        return adapted.train()

    def _chosen(self, network: nn.Module) -> list[str]:
        there = list(_adaptable(network))
        kind, faults = type(network).__name__, Faults("LoRA")
        faults.unless(bool(there), f"{kind} has no linear layer or convolution that can be adapted")
        for pattern in self.target if there else ():
            faults.unless(
                bool(fnmatch.filter(there, pattern)),
                f"target {pattern!r} names no layer of {kind} that can be adapted; there are {', '.join(there[:3])}, "
                f"... and {there[-1]}",
            )
        faults.raise_any()
        return [name for name in there if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.target)]


def _adaptable(network: nn.Module) -> Iterator[str]:
    """Yield the names of layers that peft computes as torch does, and that are called, not read by others."""
    owners = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    for name, layer in network.named_modules():
        # A layer with a constructor of its own may compute otherwise, or be read as that of MultiheadAttention is.
        plain = any(isinstance(layer, kind) and type(layer).__init__ is kind.__init__ for kind in _KINDS)
        if name and plain and owners[id(layer.weight)] == 1 and _is_simple(layer):
            yield name


def _is_simple(layer: nn.Module) -> bool:
    geometry = [getattr(layer, "groups", 1), *getattr(layer, "dilation", ())]
    return all(number == 1 for number in geometry) and getattr(layer, "padding_mode", "zeros") == "zeros"


def own_weights(network: nn.Module, other: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a network that another one does not hold as well: all of them, but for ``LoRA``."""
    held = {id(weight) for weight in other.parameters()}
    return [weight for weight in network.parameters() if id(weight) not in held]


def shares_weights(network: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks have a weight in common."""
    return len(own_weights(network, other)) < sum(1 for _ in network.parameters())
