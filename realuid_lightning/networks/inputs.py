"""What every network checks of its inputs."""

from torch import Tensor

from realuid_lightning.errors import UserError


def check_inputs(
    shape: tuple[int, ...],
    condition_channels: int,
    num_classes: int | None,
    t: Tensor,
    x: Tensor,
    y: Tensor | None,
) -> None:
    """Refuse inputs that do not fit a network.

    Looks at shapes only, never at values: it neither waits for a GPU nor breaks a compiled graph.

    Args:
        shape: Shape of one sample, without the batch dimension.
        condition_channels: Number of channels that follow those of the sample.
        num_classes: Number of classes, or None for an unconditional network.
        t: Times, ``(B,)``.
        x: Samples, ``(B, shape[0] + condition_channels, *shape[1:])``.
        y: Labels, ``(B,)``, or None.

    Raises:
        UserError: If a shape differs, or labels are missing or superfluous.
    """
    expected = (shape[0] + condition_channels, *shape[1:])
    if tuple(x.shape[1:]) != expected:
        parts = f" ({shape[0]} of the sample, then {condition_channels} of the condition)" if condition_channels else ""
        raise UserError(f"x must have shape (batch, {', '.join(map(str, expected))}){parts}, got {tuple(x.shape)}")
    if tuple(t.shape) != (x.shape[0],):
        raise UserError(f"t must have shape ({x.shape[0]},), one time a sample, got {tuple(t.shape)}")
    if num_classes is None:
        if y is not None:
            raise UserError("y must be None, for the network has no classes: set its num_classes, or leave y out")
    elif y is None:
        raise UserError(
            f"y must hold labels, for the network has {num_classes} classes: give y, or set num_classes: null"
        )
    elif tuple(y.shape) != (x.shape[0],):
        raise UserError(f"y must have shape ({x.shape[0]},), one label a sample, got {tuple(y.shape)}")
