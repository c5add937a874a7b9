"""Folders of diffusers' pipelines, by their own configs and safetensors files."""

from functools import partial

from realuid_lightning.checkpoints import is_diffusers_folder, load_diffusers
from realuid_lightning.importing.kinds import Found, Kind, Origin, Told
from realuid_lightning.networks import DiffusersNetwork


def read_diffusers(origin: Origin, told: Told) -> Found:
    """Read the network and the scheduler of a pipeline's folder.

    Raises:
        UserError: As ``load_diffusers``.
    """
    del told  # the folder tells everything
    network, path = load_diffusers(origin.path)
    build = partial(DiffusersNetwork, **network.recorded()["init_args"])
    return Found(build, path, network.state_dict(), "folder")


DIFFUSERS = Kind(
    "diffusers",
    "a pipeline's folder of diffusers",
    frozenset(),
    lambda origin: is_diffusers_folder(origin.path),
    read_diffusers,
)
