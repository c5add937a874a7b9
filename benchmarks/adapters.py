"""What a distillation holds when its roles are whole networks, and when they are adapters (LoRA); in one run.

Each row trains for a cycle of one fake and one generator update in a process of its own. Bytes of weights and averages,
gradients and optimizer states are counted on the tensors that are there, each once, and beside them what ``realuid
plan`` foretells; a checkpoint is the file that is written. The peak is what training takes at most beside the weights.

Usage: python benchmarks/adapters.py [--device cpu|cuda] [--sizes cifar] [--rank N] [--batch N] [--json FILE] [--tiny]
"""

import tempfile
from pathlib import Path
from typing import Any

from parts.lean import Noise, trainer_of
from parts.measure import PeakMemory, apart
from parts.options import parsed, parser_of, show, workload, write
from parts.sizes import Workload
from torch import Tensor
from torch.utils._pytree import tree_leaves

from realuid_lightning.data import MatchingDataModule
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import LoRA
from realuid_lightning.planning import Plan
from realuid_lightning.planning.units import show as sized

COLUMNS = ("weights", "gradients", "states", "all", "planned", "checkpoint", "peak")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rank", type=int, default=8, help="of adapters on all linear layers and convolutions")
    options = parsed(parser)
    told: dict[str, Any] = {}
    for name in options.sizes:
        work = workload(name, options)
        roles = {"whole networks": None, f"adapters of rank {options.rank}": options.rank}
        told[name] = {role: apart(held, work, rank) for role, rank in roles.items()}
        rows = [[role, *(sized(row[column]) for column in COLUMNS)] for role, row in told[name].items()]
        show(f"{name}: batch {work.batch}, three averages", ("roles", *COLUMNS), rows)
    write(told, options)


def held(work: Workload, rank: int | None) -> dict[str, int]:
    """Return the bytes of each column; ``rank`` None stands for whole networks."""
    roles = {} if rank is None else {f"{role}_network": LoRA(rank) for role in ("fake", "generator")}
    network = work.network()
    data = MatchingDataModule(Noise(tuple(network.shape), 64), work.batch)  # type: ignore[arg-type]
    decays = [0.999, 0.9996, 0.9999]
    module = RealUIDModule(network, None, alpha=0.92, beta=0.94, fake_steps=1, ema=decays, **roles)
    planned = Plan(module, data, trainer_of("cpu", 1)).networks
    gradients: dict[Tensor, int] = {}
    for weight in module.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda own: gradients.update({own: own.grad.nbytes}))  # type: ignore
    memory, trainer = PeakMemory(work.device), trainer_of(work.kind, 1)
    trainer.fit(module, data)
    peak = memory.bytes()
    states = [leaf for each in trainer.optimizers for leaf in tree_leaves(list(each.state.values()))]
    found = [
        sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers())),
        sum(gradients.values()),
        sum(leaf.nbytes for leaf in states if isinstance(leaf, Tensor)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(Path(folder, "run.ckpt"))
        size = Path(folder, "run.ckpt").stat().st_size
    foretold = sum(each.weights + each.gradients + each.states for each in planned)
    return dict(zip(COLUMNS, (*found, sum(found), foretold, size, peak), strict=True))


if __name__ == "__main__":
    main()
