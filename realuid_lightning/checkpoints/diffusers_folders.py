"""Folders of the library diffusers: a teacher of one, read without running anything that it holds."""

import json
from pathlib import Path, PurePath
from typing import Any

from realuid_lightning.errors import UserError
from realuid_lightning.networks.diffusers import DiffusersNetwork, model_class
from realuid_lightning.paths import AffinePath, FlowMatchingPath, path_of_scheduler

_NETWORKS = ("unet", "transformer")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"
_LARGEST = 50_000_000
"""Bytes of the largest JSON file that is read: an index of very many weights."""

_TOLD = {
    "AuraFlowTransformer2DModel": 0.001,
    **dict.fromkeys(("DiTTransformer2DModel", "SD3Transformer2DModel", "UNet2DConditionModel", "UNet2DModel"), 1.0),
}
"""What networks of flows are told as time, in units of their scheduler's timesteps, as their pipelines do it."""


def is_diffusers_folder(path: str | Path) -> bool:
    """Tell whether a path is a folder that ``load_diffusers`` is for."""
    return (Path(path) / "model_index.json").is_file()


def load_diffusers(folder: str | Path, null: int | None = None) -> tuple[DiffusersNetwork, AffinePath]:
    """Read the teacher in a pipeline's folder: its network and the path that it was trained on.

    Weights come from safetensors files alone, and all of them must fit. Nothing is downloaded or executed.

    Args:
        folder: Local folder with ``model_index.json``, as ``save_pretrained`` of a pipeline writes it.
        null: The label that stands for none, as in ``DiffusersNetwork``.

    Returns:
        The network, with its weights in float32, and the path by its scheduler's config (``path_of_scheduler``).

    Raises:
        UserError: If files are missing or broken, hold pickles only, or do not fit each other; or if how the network is
            told the time is not known.

    Example:
        >>> load_diffusers("gone")
        Traceback (most recent call last):
        realuid_lightning.errors.UserError: gone: expected a folder of diffusers, but there is none; ...
    """
    folder = _folder(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    network = load_diffusers_network(folder, null=null)
    name = type(network.model).__name__
    path = path_of_scheduler(scheduler, _TOLD.get(name, 1.0))
    if isinstance(path, FlowMatchingPath) and name not in _TOLD:
        raise UserError(
            f"{folder}: how a {name} is told the time of a flow is not known here; make the path yourself, "
            "FlowMatchingPath(parameterisation=ReversedVelocity(ReversedTime(...))), and the network by "
            "load_diffusers_network"
        )
    return network, path


def load_diffusers_network(
    folder: str | Path, shape: tuple[int, ...] | None = None, checkpoint: bool = False, null: int | None = None
) -> DiffusersNetwork:
    """Read the network in a folder of a pipeline or of a model; arguments and errors as in ``DiffusersNetwork``.

    Args:
        folder: Local folder with ``config.json``, or with a folder ``unet`` or ``transformer`` that has it.
        shape: Shape of a sample, for a config that does not tell it.
        checkpoint: Recompute activations in the backward pass.
        null: The label that stands for none.

    Raises:
        UserError: If files are missing or broken, hold pickles only, or do not fit each other.
    """
    folder = _folder(folder)
    places = [place for place in (folder, *(folder / name for name in _NETWORKS)) if (place / "config.json").is_file()]
    if not places:
        raise UserError(f"{folder}: expected config.json, or {' or '.join(_NETWORKS)} with it, but there is none")
    model = _model(places[0])
    try:
        network = DiffusersNetwork(_config(model), shape, checkpoint, null)
    except UserError as error:
        raise UserError(f"{places[0]}: {error}") from error
    network.model.load_state_dict(model.state_dict())
    return network


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds a dictionary.

    Raises:
        UserError: If it is missing, very large, or broken.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: expected a config, got more than {_LARGEST} bytes")
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected JSON, as diffusers writes it, but it cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise UserError(
            f"{folder}: expected a folder of diffusers, but there is none; download it, and name the folder"
        )
    return Path(folder)


def _model(folder: Path) -> Any:
    """Let the library read a model, strictly, from safetensors files of this folder alone."""
    config = read_json(folder / "config.json")
    if config.get("quantization_config") is not None:
        raise UserError(f"{folder}: its weights are quantized, which cannot be trained on; take the original ones")
    if (folder / _INDEX).exists():
        shards = read_json(folder / _INDEX).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else {None}
        strange = [name for name in names if not _is_plain(name)]
        if strange:
            raise UserError(f"{folder / _INDEX}: must name safetensors files beside it, got {str(strange)[:80]}")
    made = model_class(config.get("_class_name"))
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    try:
        model, report = made.from_pretrained(str(folder), output_loading_info=True, **options)
    except Exception as error:  # of its own, of safetensors, of the class
        raise UserError(
            f"{folder}: expected a config and diffusion_pytorch_model.safetensors that fit it, but "
            f"{next(iter(str(error).splitlines()), type(error).__name__)[:200]}"
        ) from error
    faults = {name: found for name, found in report.items() if found}
    if faults:
        raise UserError(f"{folder}: its weights do not fit its config: {str(faults)[:300]}")
    return model


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and PurePath(name).name == name and name.endswith(".safetensors")


def _config(model: Any) -> dict[str, Any]:
    """Return the config of a model: its class and arguments, and not where it came from."""
    arguments = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return {"_class_name": type(model).__name__, **arguments}
