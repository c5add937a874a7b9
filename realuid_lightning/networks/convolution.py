"""Convolutions that do not keep what no gradient asks for."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input


class Convolution(nn.Conv2d):
    """A convolution that lets go of its input while its weights are frozen.

    ``nn.Conv2d`` keeps it all the same, for gradients of weights that nobody wants: a third of the activations of a
    frozen network, of which a generator update goes through two. Values and gradients are the same, bit for bit, also
    under ``torch.func``; to rounding where the input is ``channels_last`` and the weight is not. Only eager calls gain:
    ``torch.compile`` is shown ``nn.Conv2d``, and so is a convolution of which the weight or the bias trains.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` of shape (B, C, H, W)."""
        trains = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        frozen = torch.is_grad_enabled() and x.requires_grad and not trains
        known = x.ndim == 4 and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if not (frozen and known) or torch.compiler.is_compiling():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(
            kind
        ):  # what autocast does to a convolution, here where autograd sees it
            x, weight = _autocast(x, kind), _autocast(weight, kind)
            bias = None if bias is None else _autocast(bias, kind)
        result: Tensor = _InputGradient.apply(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return result


def _autocast(x: Tensor, kind: str) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.get_autocast_dtype(kind))


class _InputGradient(torch.autograd.Function):
    """A convolution with a gradient of its input alone; ``torch.func`` transforms it as any other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        return functional.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        x, weight, _, *ctx.geometry = inputs
        ctx.shape = x.shape
        ctx.save_for_backward(weight)
        ctx.save_for_forward(x, weight)  # for tangents, which are computed at once: let go of with this call

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        x_grad = conv2d_input(ctx.shape, weight, grad, *ctx.geometry)  # type: ignore[no-untyped-call]
        return x_grad, None, None, *(None for _ in ctx.geometry)

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor:
        x_now, weight_now = ctx.saved_tensors
        parts = [] if x is None else [functional.conv2d(x, weight_now, None, *ctx.geometry)]
        parts += [] if weight is None else [functional.conv2d(x_now, weight, None, *ctx.geometry)]
        parts += [] if bias is None else [bias.view(-1, 1, 1)]
        return functools.reduce(torch.add, parts)
