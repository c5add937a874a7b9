"""Generators as pipelines of diffusers, of the library's own parts alone: no code goes along."""

import contextlib
import copy
import math
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from realuid_lightning.checkpoints.export import load_generator
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.networks import DiffusersNetwork, Generator
from realuid_lightning.networks.diffusers import library
from realuid_lightning.paths import MatchingPath

_CLOSE = 1e-5
_STEP = 0.01
"""How far the time that a generator tells its network may be from a whole step: what rounding leaves."""


def export_diffusers(
    checkpoint: str | Path,
    target: str | Path,
    ema: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    trust: Sequence[str] = (),
) -> None:
    """Write a one-step generator to a folder that ``DiffusionPipeline.from_pretrained`` opens.

    It holds the network, a ``UNet2DModel``, and an ``EulerDiscreteScheduler`` whose only step is the generator's, in a
    ``ConsistencyModelPipeline``, the library's own pipeline of one step: it takes ``batch_size``, ``class_labels`` and
    ``generator``, and is told nothing of steps. Where that scheduler scales noise or prediction otherwise than the
    path, as for flows, the factors go into the weights of the first and the last layer.

    Args:
        checkpoint: Checkpoint of ``RealUIDModule``, or an export of it.
        target: The folder to create; it must not exist.
        ema: Decay of the average to export; raw weights when None.
        dtype: Type of the weights.
        trust: As in ``load_generator``.

    Raises:
        UserError: If the checkpoint does not fit (see ``load_generator``), ``target`` exists, or no pipeline of
            diffusers can express the generator: it must have one step and a network of diffusers, a ``UNet2DModel`` of
            square images, told the time as a whole step.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: expected the name of a folder to create, but it exists; choose another name")
    generator = load_generator(checkpoint, ema, trust=trust)
    try:
        pipeline = pipeline_of(generator, dtype)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    with _new_folder(target) as folder:
        pipeline.save_pretrained(folder)


def pipeline_of(generator: Generator, dtype: torch.dtype = torch.float32) -> Any:
    """Return the pipeline of diffusers that makes the generator's samples, from the same noise.

    Args:
        generator: The generator, which stays as it is.
        dtype: Type of the pipeline's weights.

    Raises:
        UserError: If there is none, as for ``export_diffusers``.
    """
    network = copy.deepcopy(generator.network)
    if not isinstance(network, DiffusersNetwork):
        raise UserError(
            f"a pipeline of diffusers needs a network of diffusers, got {type(network).__name__}, whose code would "
            "have to go along and be trusted; export it to safetensors, torch or onnx"
        )
    if generator.decoder is not None:
        raise UserError("a pipeline of diffusers for one step decodes no latents; export it to torch or onnx")
    if generator.path.translates:
        raise UserError("a pipeline of diffusers begins at noise, but the generator at samples of a source domain")
    step = step_of(generator.path)
    _refuse(generator, network, step)
    _fold(network.model, network.shape, step)
    network.to(dtype).eval()
    scheduler = library().EulerDiscreteScheduler(
        num_train_timesteps=step.number + 1,
        trained_betas=_betas(step),
        prediction_type=step.prediction,
        timestep_spacing="trailing",
    )
    return library().ConsistencyModelPipeline(network.model, scheduler)


class Step(NamedTuple):
    """What a one-step generator computes, as a step of an Euler scheduler from ``sigma`` to 0.

    Attributes:
        time: What the network is told.
        scale: By which the latent is multiplied for the network.
        prediction: What the network's output is, times ``factor``: the scheduler's ``prediction_type``.
        sigma: Noise level of the step.
        factor: By which the output is multiplied.
    """

    time: float
    scale: float
    prediction: str
    sigma: float
    factor: float

    @property
    def number(self) -> int:
        """The whole step nearest to the time."""
        return round(self.time)

    @property
    def gain(self) -> float:
        """By which the network's input must be multiplied, beside what the scheduler does."""
        return self.scale * math.hypot(self.sigma, 1) / self.sigma


def step_of(path: MatchingPath) -> Step:
    """Return the step of a path's one-step generator, whose samples are ``p z + q F(scale z, time)``.

    ``F`` is the bare network. ``p`` and ``q`` are found by asking the path with one of both at 0, the other at 1.
    """
    seen: list[tuple[float, float]] = []

    def answer(z: float, raw: float) -> float:
        def network(t: Tensor, x: Tensor, y: Any = None) -> Tensor:  # noqa: ARG001 - the contract of networks
            seen.append((float(t), float(x)))
            return torch.full_like(x, raw)

        return float(path.one_step(network, torch.full((1, 1), z, dtype=torch.float64)))

    p, q = answer(1.0, 0.0), answer(0.0, 1.0)
    time, scale = seen[0]
    if 0 < scale < 1:
        sigma, a = scale / math.sqrt(1 - scale**2), math.sqrt(1 - scale**2)
        forms = {"epsilon": (sigma, -sigma), "v_prediction": (a * scale, -scale), "sample": (0.0, 1.0)}
        for name, (skip, out) in forms.items():
            if math.isclose(p, skip, rel_tol=_CLOSE, abs_tol=_CLOSE) and math.isclose(q, out, rel_tol=_CLOSE):
                return Step(time, scale, name, sigma, 1.0)
    return Step(time, scale, "epsilon", p, -q / p) if p > 0 else Step(time, scale, "sample", 1.0, q)


def _refuse(generator: Generator, network: DiffusersNetwork, step: Step) -> None:
    """Raise what keeps a generator from being a step of the pipeline."""
    config = network.model.config
    faults = Faults("a pipeline of diffusers")
    name = type(network.model).__name__
    faults.unless(
        name == "UNet2DModel",
        f"its own pipelines of {name} need further parts, such as a decoder: take the model by load_generator, "
        "model.save_pretrained it, and put it into the pipeline of your teacher",
    )
    faults.unless(generator.steps == 1, f"the generator must have one step, got {generator.steps}")
    faults.unless(not network.condition_channels, "the network must be shown noise alone, got further channels")
    faults.unless(
        abs(step.time - step.number) < _STEP and step.number >= 0,
        f"the network must be told a whole step, got {step.time:.6g}: set generator_sigma or levels of the "
        "path to a step's",
    )
    height, width = network.shape[-2:]
    faults.unless(height == width, f"images must be square, got {height} x {width}")
    faults.unless(config.get("class_embed_type") is None, "labels must be numbers of classes")
    folds = not (_is_one(step.factor) and _is_one(step.gain))
    blocks = (*config.get("down_block_types", ()), *config.get("up_block_types", ()))
    faults.unless(
        not folds or not (any("Skip" in block for block in blocks) or config.get("center_input_sample")),
        "the path's factors do not go into the weights of a network with skip blocks, or one that centres its input",
    )
    faults.raise_any()


def _fold(model: Any, shape: tuple[int, ...], step: Step) -> None:
    """Let the outer layers of a ``UNet2DModel`` scale its input and output, and the last one tell no variances."""
    channels, last = shape[0], model.conv_out
    kept = nn.Conv2d(last.in_channels, channels, last.kernel_size, padding=last.padding)
    assert kept.bias is not None
    with torch.no_grad():
        if not _is_one(step.gain):
            model.conv_in.weight *= step.gain
        factor = 1.0 if _is_one(step.factor) else step.factor
        kept.weight.copy_(factor * last.weight[:channels])
        kept.bias.copy_(factor * last.bias[:channels])
    model.conv_out = kept
    model.register_to_config(out_channels=channels, sample_size=shape[-1])


def _betas(step: Step) -> list[float]:
    """Return variances of steps whose last one has the noise level, though the scheduler computes in float32."""
    parts = min(step.number + 1, 8)  # one of all but 1 would lose the digits of what it leaves
    return [1 - (step.sigma**2 + 1) ** (-1 / parts)] * parts + [0.0] * (step.number + 1 - parts)


def _is_one(factor: float) -> bool:
    return math.isclose(factor, 1, rel_tol=_CLOSE)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the name ``target`` when the block ends well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:16]}")
    try:
        folder.mkdir()
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
