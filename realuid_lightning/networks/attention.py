"""Attention between tokens, as all networks compute it."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_FEW = 128
"""Tokens, up to which PyTorch 2's CPU kernel takes 1.3 to 6 times as long in bf16, there and back, as in float32."""


def attend(
    q: Float[Tensor, "b heads n c"], k: Float[Tensor, "b heads n c"], v: Float[Tensor, "b heads n c"]
) -> Float[Tensor, "b heads n c"]:
    """Let every token attend to all others, scaled by ``1 / sqrt(c)`` (Vaswani et al. 2017, equation 1).

    Where a CPU is to go back through few tokens in half precision, both ways are computed in float32.

    Args:
        q: Queries.
        k: Keys.
        v: Values.

    Returns:
        What each token has gathered, of the type of ``v``, which autocast may lower.
    """
    slow = q.device.type == "cpu" and q.requires_grad and q.shape[2] <= _FEW and q.dtype.itemsize < 4
    if not slow:
        return functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return functional.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
