"""Convolutions that do not keep what no gradient asks for."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input


class Convolution(nn.Conv2d):
    """A convolution that lets go of its input while its weights are frozen.

    ``nn.Conv2d`` keeps it all the same, for gradients of weights that nobody wants: a third of the activations of a
    frozen network, of which a generator update goes through two. Values and gradients are the same, bit for bit.
    Only eager calls gain: ``torch.compile`` is shown ``nn.Conv2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` of shape (B, C, H, W)."""
        frozen = torch.is_grad_enabled() and x.requires_grad and not self.weight.requires_grad
        known = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if not (frozen and known) or torch.compiler.is_compiling():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(
            kind
        ):  # what autocast does to a convolution, here where autograd sees it
            dtype = torch.get_autocast_dtype(kind)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        result: Tensor = _InputGradient.apply(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return result


class _InputGradient(torch.autograd.Function):
    """A convolution with a gradient of its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        return functional.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        x_grad = conv2d_input(ctx.shape, weight, grad, *ctx.geometry)  # type: ignore[no-untyped-call]
        return x_grad, None, None, *(None for _ in ctx.geometry)
