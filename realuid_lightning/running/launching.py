"""Who has launched this process."""

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from realuid_lightning.lightning_internals import cluster_environment


def launched(trainer: Trainer) -> bool:
    """Tell whether process 0 has launched this one: it must then leave with exit code 0.

    The process that launched the others takes any other code for a crash, and kills all, itself included.
    """
    found = cluster_environment(trainer)
    return isinstance(found, LightningEnvironment) and found.local_rank() > 0
