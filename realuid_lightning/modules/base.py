"""What the teacher and the distillation module share: draws, averages, evaluation, checkpoints."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from realuid_lightning.checkpoints import (
    RECORD,
    check_decoder_record,
    check_path_record,
    check_run,
    check_state,
    load_strictly,
    load_weights,
    record_of,
)
from realuid_lightning.data import Batch, Draws, MatchingDataModule
from realuid_lightning.errors import Faults, UserError
from realuid_lightning.lightning_internals import trainer_of
from realuid_lightning.modules.checks import disagreements, divided_faults, sampler_faults, share_faults, trainer_faults
from realuid_lightning.modules.generation import Sampler, generate, step_noise
from realuid_lightning.modules.guard import UpdateGuard
from realuid_lightning.modules.resuming import (
    aim_changes,
    aim_of,
    end_at_update,
    families,
    fit_averages,
    fit_optimizers,
    law_changes,
    match_memory_format,
    stream_changes,
    stream_of,
)
from realuid_lightning.networks.compiling import compile_in_place
from realuid_lightning.networks.ema import EMA, ema_faults
from realuid_lightning.paths import FlowMatchingPath, MatchingPath
from realuid_lightning.recorded import Recorded
from realuid_lightning.seeding import global_seed, keyed_generator, mix
from realuid_lightning.sharding import shard, share

# What a draw is for; keys of their own beside those of the data stream.
DRAWS = 0xD3A35
DROPOUT = 0xD309


class MatchingModule(LightningModule):
    """Base of all modules: it draws randomness, keeps averages of one network, and generates in evaluation.

    A subclass gives ``architecture``, ``trained``, ``ema`` (an ``EMA``), ``samplers``, a training step and its
    optimizers.

    Args:
        path: The framework; flow matching when None.
        ema: Decays of the averages that are kept, each in [0, 1).
        evaluate: Names of the samplers that validation and test measure (``raw``, ``ema_0.999``, a teacher's
            ``raw_steps_50``, ...); all when None.
        predict_with: Name of the sampler that ``predict`` uses; the last one when None.
        eval_batch_size: Samples in one forward of evaluation and prediction, on each process; a ``MatchingDataModule``
            gives as many at once. Every forward has exactly this size, the last one filled up, so that a sample
            depends neither on the batches of a loader nor on the number of processes.
        max_skips: Greatest number of updates of one network, in a row, that are left out for a loss or gradient that
            is not finite; one more ends the run.
        compile: Compile every network by ``torch.compile``, for the sizes that batches have. It takes minutes at the
            beginning; checkpoints are the same.
        channels_last: Keep the weights of convolutions in the order that tensor cores take them in.
        fresh_optimizers: On resuming, begin the moments of an optimizer anew where the checkpoint's is of another class
            (or lacks the moments of ``amsgrad`` or ``centered``), instead of refusing it.
    """

    ema: EMA
    averaged: ClassVar[str | None] = None
    """Name of the network that the averages follow; without it, a resumed run cannot add one."""
    role: ClassVar[str]
    """What a checkpoint of this class holds: ``teacher`` or ``generator``."""

    def __init__(
        self,
        path: MatchingPath | None = None,
        ema: list[float] = [0.999],  # noqa: B006 - the default is shown by --help; never mutated
        evaluate: list[str] | None = None,
        predict_with: str | None = None,
        eval_batch_size: int = 256,
        max_skips: int = 10,
        compile: bool = False,  # noqa: A002 - what the user calls it
        channels_last: bool = False,
        fresh_optimizers: bool = False,
    ) -> None:
        super().__init__()
        self._faults = Faults(type(self).__name__)  # a subclass adds its own, and raises all of them
        self._faults.finite(ema=ema)
        self._faults.extend(ema_faults(ema))
        self._faults.unless(eval_batch_size >= 1, f"eval_batch_size must be at least 1, got {eval_batch_size}")
        self.path = path or FlowMatchingPath()
        self.ema_decays = list(ema)
        self.evaluate = evaluate
        self.predict_with = predict_with
        self.eval_batch_size = eval_batch_size
        self.guard = self._faults.attempt(lambda: UpdateGuard(max_skips)) or UpdateGuard()
        self.compiled, self.channels_last = compile, channels_last
        self.fresh_optimizers = fresh_optimizers
        self._loaded_steps = 0
        self._started = False
        self._resumed: tuple[dict[str, Any], list[str]] | None = None

    # ------------------------------------------------------------------------------------------------ randomness

    def rng(self, batch_idx: int) -> torch.Generator:
        """Return the generator of a training batch's draws, keyed by (seed, step, rank), on the device.

        The global generator is seeded alike, for dropout. So a resumed run draws what an uninterrupted one would.

        Args:
            batch_idx: Index of the batch, which tells batches apart whose gradients are accumulated into one step.
        """
        part = batch_idx % self.trainer.accumulate_grad_batches
        place = (self.global_step, part, self.global_rank)
        torch.manual_seed(mix(global_seed(), DROPOUT, *place))
        return keyed_generator(global_seed(), DRAWS, *place, device=self.device)

    def draw(self, batch: Batch, rng: torch.Generator, sample_t: Callable[[Tensor], Tensor] | None = None) -> Draws:
        """Make the draws that the loader left open: times, source noise, latents, and the noise of a noisy path.

        Args:
            batch: What the loader gave.
            rng: Generator on the device.
            sample_t: Maps uniform draws to times; ``path.sample_t`` when None.
        """
        shape = next(field.shape for field in (batch.x1, batch.z, batch.x0) if field is not None)
        dtype = cast(torch.dtype, self.dtype)

        def noise(given: Tensor | None = None) -> Tensor:
            if given is not None:
                return given.to(dtype)
            return torch.randn(shape, generator=rng, device=self.device, dtype=dtype)

        t = batch.t
        if t is None:
            t = (sample_t or self.path.sample_t)(torch.rand(shape[:1], generator=rng, device=self.device, dtype=dtype))
        return Draws(
            x1=None if batch.x1 is None else batch.x1.to(dtype),
            x0=noise(batch.x0),
            z=noise(batch.z),
            t=t,
            y=batch.y,
            eps=noise() if self.path.noisy else None,
        )

    def noise(self, batch: Batch, step: int) -> Tensor:
        """Return the noise of a stochastic sampler's step in evaluation, ``(B, *D)``: ``step_noise``."""
        return step_noise(batch, step)

    def source(self, batch: Batch | Draws) -> Tensor | None:
        """Return the source-domain samples of a translating path, ``(B, *D)``; None where ``x0`` is but noise."""
        return batch.x0 if self.path.translates else None

    # ------------------------------------------------------------------------------------------------ evaluation

    @property
    def architecture(self) -> nn.Module:
        """A network of the teacher's architecture: what checkpoints record and data are checked against."""
        raise NotImplementedError

    @property
    def steps_made(self) -> int:
        """Training steps behind the weights: the trainer's own, or those of the checkpoint that is evaluated."""
        training = self.trainer.state.fn == "fit"
        current = training or (self.trainer.ckpt_path is None and self.global_step > 0)
        return self.global_step if current else self._loaded_steps

    @property
    def begins_at(self) -> str | None:
        """The file whose weights are measured before any training; None for other weights."""
        return None

    def samplers(self) -> dict[str, Sampler]:
        """Return every way to turn a latent batch into samples, by name."""
        raise NotImplementedError

    def generate(self, sampler: Sampler, batch: Batch) -> Tensor:
        """Turn latents into samples by forwards of ``eval_batch_size`` samples each, as they are measured and drawn.

        Args:
            sampler: One of ``samplers()``.
            batch: Latents ``z`` (labels ``y`` of a conditional model, sources ``x0`` of a translating one), of any
                number.

        Returns:
            Samples, ``(B, *D)``, decoded where networks know the encoded ones of ``data.Latents``.
        """
        data = self._data

        def decoded(rows: Batch) -> Tensor:
            made = sampler(rows)
            return made if data is None else data.decode(made)

        return generate(decoded, batch, self.eval_batch_size, self.device, cast(torch.dtype, self.dtype))

    @property
    def _data(self) -> MatchingDataModule | None:
        """The data module, where there is a trainer with one of ours."""
        data = getattr(trainer_of(self), "datamodule", None)
        return data if isinstance(data, MatchingDataModule) else None

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return samples of every evaluated sampler, ``(B, *D)`` by name; callbacks measure and draw them."""
        del batch_idx
        return {name: self.generate(sampler, batch) for name, sampler in self.evaluated().items()}

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return samples ``(B, *D)`` of the sampler ``predict_with``."""
        del batch_idx
        samplers = self.samplers()
        return self.generate(samplers[self.predict_with or list(samplers)[-1]], batch)

    def evaluated(self) -> dict[str, Sampler]:
        """Return the samplers that validation and test measure, by name."""
        samplers = self.samplers()
        return {name: samplers[name] for name in self.evaluate or samplers}

    # ----------------------------------------------------------------------------------- checks before any training

    def setup(self, stage: str) -> None:
        """Refuse what cannot work with this trainer and this data, before any step is made."""
        if stage == "fit" and self.trainer.checkpoint_callbacks:
            self._record()  # told now, not when the first checkpoint is written
        # Before a checkpoint is loaded, which Lightning does first: in float32 it would be rounded.
        self.trainer.precision_plugin.convert_module(self)
        for network in self.networks.values():  # one may be handed over as it was kept, in half or double precision
            if all(weight.dtype in (torch.float16, torch.bfloat16, torch.float64) for weight in network.parameters()):
                network.to(self.dtype)
        # The teacher and the averages are in eval mode by design.
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
        faults = Faults(type(self).__name__)
        faults.extend(sampler_faults(list(self.samplers()), self.evaluate, self.predict_with))
        faults.extend(trainer_faults(self.trainer))
        if self._is_divided:
            faults.extend(divided_faults(self.networks, compile=self.compiled, channels_last=self.channels_last))
        self._check_sampling(faults)
        if self._data is not None:
            self._check_data(self._data, faults)
        faults.raise_any()
        self._make_fast()

    def _make_fast(self) -> None:
        """Prepare the networks for speed, as the options say; a second time changes nothing."""
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.compiled:
            for network in self.networks.values():
                compile_in_place(network)

    def _check_sampling(self, faults: Faults) -> None:
        """Note what keeps the samplers from working on this path; nothing by default."""

    def _check_data(self, data: MatchingDataModule, faults: Faults) -> None:
        """Note what keeps the networks from working with these data."""
        faults.extend(disagreements(self.architecture, self.path, data))
        if self._is_divided:
            faults.extend(share_faults(data, self.trainer.world_size, self.trainer.state.fn == "predict"))

    # -------------------------------------------------------------------------------------------- many processes

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All networks by the names of their attributes, and the averages by theirs."""
        children = {name: part for name, part in self.named_children() if not isinstance(part, EMA)}
        found = {name: part for name, part in children.items() if any(True for _ in part.parameters())}
        return {**found, **self.ema.named()}

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The networks that training moves, by the names of their attributes; ``ddp_per_network`` wraps each of them.

        A subclass that trains a further network adds it.
        """
        raise NotImplementedError

    @property
    def partly_trained(self) -> frozenset[str]:
        """Names of trained networks of which an update may leave some weights without gradients; none by default."""
        return frozenset()

    @property
    def _is_divided(self) -> bool:
        """Whether the trainer's strategy divides networks among devices."""
        return isinstance(self.trainer.strategy, ModelParallelStrategy)

    def _gradients_kept(self) -> AbstractContextManager[None]:
        """Keep gradients to this process inside the block: more of the same update follow."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, DDPStrategy):
            return nullcontext()
        return cast(AbstractContextManager[None], strategy.block_backward_sync())

    def configure_model(self) -> None:
        """Divide every network among the devices, where the strategy is of that kind; once."""
        if self._is_divided and not any(isinstance(weight, DTensor) for weight in self.parameters()):
            assert self.device_mesh is not None
            # It warns of changes in place of what a network returns, which no loss makes.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
            shard(self.networks.values(), self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Start, unless a checkpoint has just filled the networks; give every process the weights of process 0.

        DDP does so for what it wraps, and before this hook; here frozen networks and averages begin alike too.
        """
        self.start()
        if isinstance(self.trainer.strategy, DDPStrategy):
            for tensor in (*self.parameters(), *self.buffers()):  # all at once would need their memory once more
                share([tensor])
        if self._resumed is not None:
            self._resume(*self._resumed)
            self._resumed = None

    def _resume(self, checkpoint: dict[str, Any], changes: list[str]) -> None:
        """Let the options of this run hold for what the trainer is about to restore, and tell what is new."""
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        options = {id(weight): name for name, part in self.trained.items() for weight in part.parameters()}
        names = [options.get(id(each.param_groups[0]["params"][0]), "further") for each in self.trainer.optimizers]
        now = stream_of(self)
        streamed = stream_changes(checkpoint.get("batch", {}), now)
        aims = aim_changes(checkpoint.get("aim", {}), aim_of(self))
        set_anew = fit_optimizers(checkpoint, names, self.trainer.optimizers, schedules, self.fresh_optimizers)
        if told := [*aims, *streamed, *set_anew, *changes]:
            others = "; draws, and which samples come when, are others from here on" if streamed else ""
            rank_zero_info(
                f"resuming with {', '.join(told)}: weights, moments, averages and counts of updates go on, the "
                f"options of this run hold{others}"
            )

    def on_train_start(self) -> None:
        """Give what a checkpoint has restored the memory format that weights have by now."""
        for optimizer in self.trainer.optimizers:
            match_memory_format(optimizer)

    def on_train_batch_end(self, *_: Any) -> None:
        """End a run that makes no sound updates any more, at the interval at which values are read anyway."""
        interval = self.trainer.log_every_n_steps or 50  # type: ignore[attr-defined]  # 0 says: never
        if self.global_step % interval == 0:
            self.log("guard/skipped", self.guard.skipped.float())
            self.guard.end_if_lost(self.trainer)

    def on_train_end(self) -> None:
        """End a run that is lost at its last steps, too."""
        self.guard.end_if_lost(self.trainer)

    # ----------------------------------------------------------------------------------------------------- start

    def start(self) -> None:
        """Give every network the weights that it begins with; a second call does nothing.

        Raises:
            UserError: If a file of weights is missing, broken, of another architecture or of another framework.
        """
        if not self._started:
            self._begin()
            self._started = True

    def _begin(self) -> None:
        """Load the files that networks begin at, and start what follows from them; nothing by default."""

    def _load(self, network: nn.Module, file: str, ema: float | None, role: Literal["teacher", "generator"]) -> None:
        """Give a network the weights of a file: its average of decay ``ema``; the raw ones when None."""
        source = None if self._data is None else self._data.source
        weights = load_weights(file, role=role, ema=ema, path=self.path, source=source)
        load_strictly(network, weights, f"{role}_ckpt {file}")

    def on_validation_start(self) -> None:
        """Start as for training."""
        self.start()

    on_test_start = on_predict_start = on_validation_start

    # ----------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what rebuilds the network and the path, so that a checkpoint can be used without its config."""
        checkpoint[RECORD] = self._record()
        checkpoint["guard"] = self.guard.state_dict()
        if trainer_of(self) is not None:  # as in a run; a module alone can be saved too
            checkpoint["batch"] = stream_of(self)
            checkpoint["aim"] = aim_of(self)
            checkpoint["optimizers"] = families(self.trainer.optimizers)
            if "loops" in checkpoint:
                end_at_update(checkpoint, self.trainer.accumulate_grad_batches)

    def _record(self) -> dict[str, Any]:
        network = self.architecture
        return {
            "format": 1,
            "role": self.role,
            "network": network.recorded() if isinstance(network, Recorded) else None,
            "path": self.path.recorded(),
            "ema": self.ema_decays,
            "decoder": None if self._data is None else self._data.source.decoder,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another program, another role or another architecture, naming the difference.

        It holds every network, so that no file to begin at is needed beside it.
        """
        trainer = trainer_of(self)
        fitting = trainer is not None and trainer.state.fn == "fit"
        if fitting:
            check_run(checkpoint, "ckpt_path")  # not every trainer reads by our AtomicCheckpointIO
        record = record_of(checkpoint, "ckpt_path")
        if record["role"] != self.role:
            raise UserError(
                f"ckpt_path: the checkpoint holds a {record['role']}, but {type(self).__name__} resumes a {self.role}"
            )
        check_path_record(record, self.path, "ckpt_path", self.path.training)
        if self._data is not None:
            check_decoder_record(record, self._data.source.decoder, "ckpt_path")
        follows = self.averaged if fitting else None  # what has never been averaged is not measured
        averages = fit_averages(checkpoint["state_dict"], record["ema"], self.ema_decays, follows)
        changes = [*law_changes(record["path"], self.path), *averages]
        check_state(self, checkpoint["state_dict"], "ckpt_path")
        if "guard" in checkpoint:  # as in all but those of earlier versions
            self.guard.load_state_dict(checkpoint["guard"])
        self._loaded_steps = checkpoint["global_step"]
        self._started = True
        if fitting:
            end_at_update(checkpoint, self.trainer.accumulate_grad_batches)
            self._resumed = checkpoint, changes
