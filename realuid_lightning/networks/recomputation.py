"""Stages that keep less for the backward pass, and compute it again there."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint as checkpointing

_PRODUCTS = [
    getattr(torch.ops.aten, name).default
    for name in (
        *("convolution", "addmm", "mm", "bmm"),
        *(f"_scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")),
        "_scaled_dot_product_flash_attention_for_cpu",
    )
]


def run(stage: nn.Module, *inputs: Tensor, keep_less: bool | Literal["cheap"], random: bool) -> Tensor:
    """Run one stage of a network, keeping for the backward pass what the network's ``checkpoint`` says.

    Args:
        stage: The stage, called on ``inputs``.
        inputs: Its inputs.
        keep_less: Whether to recompute: ``"cheap"`` keeps what convolutions and matrix products return, and recomputes
            the rest; True recomputes all but the inputs.
        random: Whether the stage draws from torch's global generator, as dropout does.
    """
    if keep_less is False or not torch.is_grad_enabled():
        plain: Tensor = stage(*inputs)
        return plain
    how: dict[str, Any] = {"context_fn": _keep_products} if keep_less == "cheap" else {}
    if not torch.compiler.is_compiling() and not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]
        # Plain attention was asked for: let it be recomputed so. A compiled graph cannot ask.
        stage = sdpa_kernel(SDPBackend.MATH)(stage)
    recomputed: Tensor = checkpointing.checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=random, **how)
    return recomputed


def _keep_products() -> Any:
    """Return contexts in which ``checkpoint`` keeps what products return, which take most of the time."""
    return checkpointing.create_selective_checkpoint_contexts(_PRODUCTS)  # type: ignore[no-untyped-call]
