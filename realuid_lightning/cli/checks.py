"""What Lightning would take of a trainer's options, and fail on later, or never."""

import re
import socket
from collections.abc import Iterator
from typing import Any

from lightning import Trainer

from realuid_lightning.errors import UserError


def trainer_faults(config: Any) -> Iterator[str]:
    """Yield what is wrong with the options of a trainer, one message a fault."""
    if not config["default_root_dir"]:
        yield "default_root_dir must name the folder of the run, got nothing"
    elif re.search(r"^\w+://|\0", str(config["default_root_dir"])):
        yield f"default_root_dir must be a folder on this machine, got {config['default_root_dir']!r}"
    if re.search("spawn|forkserver", str(config["strategy"])):
        yield f"strategy {config['strategy']} cannot send the run to its processes: use ddp_per_network"
    if config["val_check_interval"] == 0:
        yield "val_check_interval must be above 0, got 0; to validate never, limit_val_batches: 0"
    if config["limit_train_batches"] == 0:
        yield "limit_train_batches must be above 0, got 0: nothing would be trained"
    for name, least in (
        *(("check_val_every_n_epoch", 1), ("accumulate_grad_batches", 1), ("log_every_n_steps", 0)),
        *(("num_sanity_val_steps", -1), ("min_steps", 0)),
    ):
        if config[name] is not None and config[name] < least:
            yield f"{name} must be at least {least}, got {config[name]}"


def check_main_address(trainer: Trainer) -> None:
    """Refuse an address at which processes of several nodes would try to meet for minutes, without a word.

    Raises:
        UserError: If its name is unknown here.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is not None and trainer.world_size > 1:
        try:
            socket.getaddrinfo(environment.main_address, None)
        except OSError as error:
            raise UserError(
                f"trainer: the processes are to meet at {environment.main_address}, a name that does not resolve here "
                f"({error.strerror}); set MASTER_ADDR to the address of the first node, or name it in DNS or /etc/hosts"
            ) from error
