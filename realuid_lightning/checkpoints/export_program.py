"""Generators as programs that run without this package: of ``torch.export``, and of ONNX."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from realuid_lightning.atomic import replacing
from realuid_lightning.checkpoints.export import generator_of
from realuid_lightning.checkpoints.files import RECORD, read_checkpoint
from realuid_lightning.checkpoints.records import record_of
from realuid_lightning.conditions import Condition
from realuid_lightning.errors import UserError
from realuid_lightning.networks import Generator
from realuid_lightning.networks.diffusers import batches_of_any_size

TOLERANCE = 1e-4
"""Greatest difference between a program's samples and the generator's, in units of these samples' size."""

Inputs = dict[str, Tensor]


def export_program(
    checkpoint: str | Path,
    target: str | Path,
    ema: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    trust: Sequence[str] = (),
) -> None:
    """Write a generator as a program of ``torch.export``, which needs torch alone.

    ``torch.export.load(target).module()(z=z)`` makes samples, in batches of any size. Class labels ``y``, source-domain
    samples ``x0``, and ``renoise``, ``(B, steps - 1, *D)``, the noise of later steps, are to be given exactly when the
    generator takes them.

    Args:
        checkpoint: Checkpoint of ``RealUIDModule``, or an export of it.
        target: The ``.pt2`` file to create or replace.
        ema: Decay of the average to export; raw weights when None.
        dtype: Type of the network's weights and of what it computes; latents and samples are float32.
        trust: Names that may be imported (see ``load_generator``).

    Raises:
        UserError: If the checkpoint does not fit (see ``load_generator``), ``target`` has another suffix, the network
            cannot be followed, or the program makes other samples than the generator.
    """
    program, inputs, generator, record = _traced(checkpoint, target, ".pt2", ema, dtype, trust)
    made: Any = program.module()
    _compare(target, lambda given: made(**given), generator, inputs, dtype)
    with replacing(target) as file:
        torch.export.save(program, file, extra_files={f"{RECORD}.json": record})


def export_onnx(
    checkpoint: str | Path,
    target: str | Path,
    ema: float | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    trust: Sequence[str] = (),
) -> None:
    """Write a generator in the ONNX format, once onnxruntime has made the same samples of it.

    Inputs are those of ``export_program`` by their names, the output is ``samples``; batches may have any size.

    Args:
        checkpoint: As in ``export_program``, like ``ema`` and ``trust``.
        target: The ``.onnx`` file to create or replace.
        ema: As there.
        dtype: float32 or float16: onnxruntime computes in no bfloat16 on a CPU.
        trust: As there.

    Raises:
        UserError: As there, or if the packages of the extra ``onnx`` are not installed.
    """
    if dtype is torch.bfloat16:
        raise UserError(f"{target}: onnxruntime has no bfloat16 for most operators; choose float16 or float32")
    runtime = _runtime(target)
    program, inputs, generator, record = _traced(checkpoint, target, ".onnx", ema, dtype, trust)
    with warnings.catch_warnings():  # torch's converter calls what torch itself deprecates
        warnings.simplefilter("ignore")
        names = {"input_names": list(inputs), "output_names": ["samples"]}
        converted = torch.onnx.export(program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert converted is not None
    converted.model.metadata_props[RECORD] = record
    with replacing(target) as file:
        converted.save(file)
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

        def run(given: Inputs) -> Tensor:
            return torch.from_numpy(session.run(None, {name: part.numpy() for name, part in given.items()})[0])

        _compare(target, run, generator, inputs, dtype)


def _runtime(target: str | Path) -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{target}: an export to ONNX needs packages that are not installed: "
            "pip install 'realuid-lightning[onnx]', or choose another format"
        ) from error
    return onnxruntime


class InType(nn.Module):
    """A network that computes in a type of its own, between inputs and outputs of another.

    Times stay as they are: networks embed them in float32 or wider.

    Args:
        network: The network; its weights are cast in place.
        dtype: The type.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, t: Tensor, x: Tensor, y: Condition | None = None) -> Tensor:
        """Return the prediction, of the type of ``x``."""
        prediction: Tensor = self.network(t, x.to(self.dtype), y)
        return prediction.to(x.dtype)


def _traced(
    checkpoint: str | Path,
    target: str | Path,
    suffix: str,
    ema: float | None,
    dtype: torch.dtype,
    trust: Sequence[str],
) -> tuple[ExportedProgram, Inputs, Generator, str]:
    """Return the program of a generator, inputs to try it with, the generator, and its record as JSON."""
    if Path(target).suffix != suffix:
        raise UserError(f"{target}: such an export is a {suffix} file; choose a name that ends so")
    content = read_checkpoint(checkpoint)
    generator = generator_of(checkpoint, content, ema, trust=trust)
    inputs = _inputs(generator, checkpoint)
    if dtype is not torch.float32:
        generator.network = InType(generator.network, dtype)
    if generator.decoder is not None:
        generator(**inputs)  # it reads its weights when it is first used, which a program cannot follow
    batch = Dim("batch")
    try:
        with batches_of_any_size():
            program = torch.export.export(generator, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})
    except UserError:
        raise
    except Exception as error:  # whatever of a user's network cannot be traced
        raise UserError(
            f"{checkpoint}: torch.export cannot follow {type(generator.network).__name__} for batches of any size: "
            f"{str(error).strip().splitlines()[0][:200]}"
        ) from error
    record = {**record_of(content, checkpoint), "ema": [] if ema is None else [ema]}
    return program, inputs, generator, json.dumps(record)


def _inputs(generator: Generator, checkpoint: str | Path) -> Inputs:
    """Return inputs of five samples that a generator takes, by their names, always the same."""
    network, rng = generator.network, torch.Generator().manual_seed(0)
    if not hasattr(network, "shape"):
        raise UserError(f"{checkpoint}: its network does not tell the shape of a sample, which a program has to know")
    shape, classes = tuple(network.shape), getattr(network, "num_classes", None)  # type: ignore[arg-type]

    def normal(*sizes: int) -> Tensor:
        return torch.randn(5, *sizes, *shape, generator=rng)

    inputs = {"z": normal()}
    if classes is not None:
        inputs["y"] = torch.arange(5) % classes
    if generator.path.translates:
        inputs["x0"] = normal()
    if generator.steps > 1:
        inputs["renoise"] = normal(generator.steps - 1)
    return inputs


@torch.no_grad()
def _compare(
    target: str | Path, run: Callable[[Inputs], Tensor], generator: Generator, inputs: Inputs, dtype: torch.dtype
) -> None:
    """Refuse a program that makes other samples than its generator, in a batch as in tracing or of another size.

    Raises:
        UserError: With the difference.
    """
    allowed = max(TOLERANCE, 32 * torch.finfo(dtype).eps)
    for size in (5, 1):
        given = {name: part[:size] for name, part in inputs.items()}
        expected = generator(**given)
        apart = (run(given) - expected).abs().max() / expected.abs().max().clamp(min=1)
        if not apart <= allowed:
            raise UserError(
                f"{target}: not written, for its samples differ from the generator's by {float(apart):.1g}, where "
                f"{allowed:.1g} is allowed; choose another format or dtype"
            )
