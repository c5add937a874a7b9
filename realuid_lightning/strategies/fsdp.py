"""Networks divided among devices (FSDP2), for those that do not fit on one: ``fsdp_per_network``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from realuid_lightning.errors import UserError
from realuid_lightning.lightning_internals import divide_among


class PerNetworkFSDP(ModelParallelStrategy):
    """Divides weights, gradients and optimizer states among all processes; ``--trainer.strategy fsdp_per_network``.

    Teacher, fake model, generator and averages are divided alike (``MatchingModule.configure_model``); a network is
    gathered, stage by stage, only while it is called. Checkpoints are those of one process: files that any other
    strategy resumes, and the other way round.

    Args:
        kwargs: ``timeout`` and ``process_group_backend`` of Lightning's ``ModelParallelStrategy``.
    """

    name: ClassVar[str] = "fsdp_per_network"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **kwargs)

    def setup_environment(self) -> None:
        """Arrange all processes in one line: data are divided among the very processes that divide the networks."""
        divide_among(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the full state on process 0, nothing on others, in the form that ``Optimizer.state_dict`` has."""
        assert self.model is not None
        bare = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named: dict[str, Any] = get_optimizer_state_dict(self.model, bare, options=options)
        if not named:
            return named
        numbers = {name: number for number, name in enumerate(_names(named["param_groups"]))}
        return {
            "state": {numbers[name]: state for name, state in named["state"].items()},
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]} for group in named["param_groups"]
            ],
        }

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """False: networks are divided in ``configure_model``, which comes first."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: optimizers are filled once they are there."""
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of any strategy, all of it on every process.

        Raises:
            UserError: If the file is missing, broken or foreign.
        """
        del weights_only  # always
        return self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every process its part of the weights."""
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every process its part of the optimizers' states.

        Raises:
            UserError: If a state is that of another number of weights.
        """
        assert self.model is not None
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        for optimizer, numbered in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.model, optimizer, _named(numbered, own), options=options)


def _names(groups: list[dict[str, Any]]) -> Iterator[str]:
    for group in groups:
        yield from group["params"]


def _named(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return an optimizer's state dict with weights by name instead of number.

    Raises:
        UserError: If it has another number of weights.
    """
    numbers = list(_names(state["param_groups"]))
    if len(numbers) != len(names):
        raise UserError(
            f"ckpt_path: expected the state of an optimizer of {len(names)} weights, got {len(numbers)}; resume with "
            "the config of the run that wrote it"
        )
    name_of = dict(zip(numbers, names, strict=True))
    return {
        "state": {name_of[number]: value for number, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }
