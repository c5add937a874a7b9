import os
import signal

import pytest
import torch
from helpers import Counting, trainer
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from realuid_lightning.running import Preemption, RunCheckpoint, Stopped

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]
CODES = {signal.SIGUSR1: 138, signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in CODES}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class Evaluated(Counting):
    """Validation logs its weight; batches that it was evaluated on are noted."""

    def __init__(self):
        super().__init__()
        self.validated = []

    def validation_step(self, batch, index):
        self.log("figure", self.weight + batch.mean())
        self.validated.append((self.global_step, index))

    def test_step(self, batch, batch_idx):
        self.validated.append(batch_idx)

    def predict_step(self, batch, batch_idx):
        self.validated.append(batch_idx)
        return batch


class Sending(Callback):
    """Sends signals to this process when a hook is called for the n-th time."""

    def __init__(self, hook, count=1, *numbers):
        self.count = count

        def send(*_, **__):
            self.count -= 1
            if self.count == 0:
                for number in numbers:
                    signal.raise_signal(number)

        setattr(self, hook, send)


def fit(folder, callbacks=(), steps=6, resume=False, **options):
    callbacks = [*callbacks, Preemption(), RunCheckpoint("figure", mode="max")]
    return train(folder, callbacks, steps, resume, **options)


def train(folder, callbacks, steps, resume=False, **options):
    options |= {"val_check_interval": 2, "check_val_every_n_epoch": None}
    module, last = Evaluated(), folder / "checkpoints" / "last.ckpt" if resume else None
    run = trainer(folder, max_steps=steps, callbacks=callbacks, **options)
    run.fit(module, DataLoader(torch.ones(100)), DataLoader(torch.ones(3)), ckpt_path=last)
    return module


def evaluate(folder, command, *callbacks):
    module = Evaluated()
    getattr(trainer(folder, callbacks=[*callbacks, Preemption()]), command)(module, DataLoader(torch.ones(4)))
    return module


HOOKS = {"validate": "validation", "test": "test", "predict": "predict"}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("command", HOOKS)
def test_an_evaluation_stops_after_the_batch(tmp_path, command, number):
    seen = Sending(f"on_{HOOKS[command]}_batch_start", 2, number)
    after = Sending(f"on_{HOOKS[command]}_batch_end", 3)
    with pytest.raises(SystemExit) as left:
        evaluate(tmp_path, command, seen, after)
    assert left.value.code == CODES[number]
    assert after.count == 1  # of the second batch, and of no other


@pytest.mark.parametrize("command", HOOKS)
def test_an_evaluation_that_has_seen_all_batches_is_finished(tmp_path, command):
    last = Sending(f"on_{HOOKS[command]}_epoch_end", 1, signal.SIGTERM)
    assert len(evaluate(tmp_path, command, last).validated) == 4


@pytest.mark.parametrize("command", HOOKS)
def test_an_evaluation_that_has_not_begun_leaves_at_once(tmp_path, command):
    with pytest.raises(SystemExit) as left:
        evaluate(tmp_path, command, Sending(f"on_{HOOKS[command]}_start", 1, signal.SIGINT))
    assert left.value.code == 130


def saved(folder, name="last.ckpt"):
    content = torch.load(folder / "checkpoints" / name)
    assert content["state_dict"]["weight"] == content["global_step"]
    return content


def stopped(folder, *callbacks, code=143, **options):
    with pytest.raises(Stopped) as left:
        fit(folder, callbacks, **options)
    assert left.value.code == code


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_a_signal_in_a_step_stops_at_its_end_with_its_own_code(tmp_path, number, code):
    stopped(tmp_path, Sending("on_before_optimizer_step", 3, number), code=code)
    assert saved(tmp_path)["global_step"] == 3


@pytest.mark.parametrize(
    ("hook", "count", "step"),
    [
        ("on_validation_start", 1, 2),
        ("on_validation_batch_start", 2, 2),
        ("on_validation_batch_end", 3, 2),
        ("on_validation_end", 1, 3),
        ("on_save_checkpoint", 1, 3),
        ("on_train_batch_start", 4, 4),
    ],
)
def test_wherever_the_signal_comes_the_resumed_run_is_the_uninterrupted_one(tmp_path, hook, count, step):
    whole = fit(tmp_path / "whole")
    folder = tmp_path / "stopped"
    stopped(folder, Sending(hook, count, signal.SIGTERM))
    assert saved(folder)["global_step"] == step
    rest = fit(folder, resume=True)
    # What was due at that step, too: a validation that was stopped is made again from its first batch.
    assert rest.validated == [place for place in whole.validated if place[0] >= step]
    one, other = (saved(tmp_path / name) for name in ("whole", "stopped"))
    for content in (one, other):  # its count of validation batches includes those made twice
        del content["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    assert one["loops"]["fit_loop"] == other["loops"]["fit_loop"]
    scores = [content["callbacks"]["RunCheckpoint"]["best_model_score"] for content in (one, other)]
    assert scores[0] == scores[1]


def test_a_state_saved_by_every_is_validated_after_a_kill_in_its_validation(tmp_path):
    class Killed(Callback):
        def on_validation_batch_start(self, *_):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, [Killed(), RunCheckpoint(every=1)], 4)
    assert saved(tmp_path)["global_step"] == 2
    assert train(tmp_path, [RunCheckpoint(every=1)], 4, resume=True).validated[0] == (2, 0)


def test_a_stop_writes_once_where_the_step_is_saved_already(tmp_path, monkeypatch):
    writes = []
    save = Trainer.save_checkpoint
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda self, *a, **k: writes.append(0) or save(self, *a, **k))
    sending = Sending("on_validation_batch_start", 1, signal.SIGUSR1)
    with pytest.raises(Stopped):
        train(tmp_path, [Preemption(), sending, RunCheckpoint(every=1)], 4)
    assert len(writes) == 2


@pytest.mark.parametrize("hook", ["setup", "on_fit_start"])
def test_before_training_there_is_nothing_to_save(tmp_path, hook):
    stopped(tmp_path, Preemption(), Sending(hook, 1, signal.SIGTERM))
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_validation_batch_start", "on_train_end"])
def test_a_run_that_has_made_its_last_step_is_finished(tmp_path, hook, handlers):
    count = {"on_before_optimizer_step": 6, "on_validation_batch_start": 7, "on_train_end": 1}[hook]
    assert len(fit(tmp_path, [Sending(hook, count, signal.SIGTERM)]).validated) == 9
    assert saved(tmp_path)["global_step"] == 6
    assert {number: signal.getsignal(number) for number in CODES} == handlers


def test_gathered_gradients_are_not_lost(tmp_path):
    stopped(tmp_path, Sending("on_train_batch_start", 5, signal.SIGTERM), accumulate_grad_batches=4)
    assert saved(tmp_path)["global_step"] == 2


def test_the_first_signal_counts(tmp_path):
    stopped(tmp_path, Sending("on_train_batch_start", 1, signal.SIGUSR1, signal.SIGTERM), code=138)


def test_signals_are_given_back_after_a_failure(tmp_path, handlers):
    class Failing(Callback):
        def on_train_batch_start(self, *_):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, [Failing()])
    assert {number: signal.getsignal(number) for number in CODES} == handlers


def test_a_loaders_process_lets_its_master_decide(tmp_path):
    class Forking(Callback):
        def on_train_batch_start(self, *_):
            child = os.fork()
            if child == 0:
                for _ in range(2):
                    signal.raise_signal(signal.SIGINT)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    fit(tmp_path, [Forking()], steps=1)
    assert saved(tmp_path)["global_step"] == 1


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of one process, and a scontrol that notes what it is asked."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    asked = tmp_path / "asked"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n[ "$1" = show ] && echo "JobId=12 JobState=$STATE Reason=None"\nexit $FAIL\n'
    )
    program.chmod(0o755)
    job = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_JOB_NAME": "realuid", "STATE": "RUNNING", "FAIL": "0"}
    for name, value in {**job, "PATH": f"{program.parent}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    return lambda: asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("number", "state", "asked"),
    [
        (signal.SIGUSR1, "RUNNING", ["requeue 12"]),
        (signal.SIGTERM, "RUNNING", ["show job 12", "requeue 12"]),
        (signal.SIGTERM, "COMPLETING", ["show job 12"]),
        (signal.SIGINT, "RUNNING", []),
    ],
)
def test_a_slurm_job_goes_back_into_the_queue(tmp_path, slurm, monkeypatch, number, state, asked):
    monkeypatch.setenv("STATE", state)
    stopped(tmp_path, Sending("on_train_batch_start", 2, number), code=CODES[number])
    assert saved(tmp_path)["global_step"] == 2
    assert slurm() == asked


def test_of_an_array_one_task_goes_back(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stopped(tmp_path, Sending("on_train_batch_start", 2, signal.SIGUSR1), code=138)
    assert slurm() == ["requeue 9_3"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_job_that_can_not_go_back_says_so(tmp_path, slurm, monkeypatch, gone):
    monkeypatch.setenv("FAIL", "1")
    if gone:
        (tmp_path / "bin" / "scontrol").unlink()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.warns(UserWarning, match="job 12 was not put back into the queue"):
        stopped(tmp_path, Sending("on_train_batch_start", 2, signal.SIGUSR1), code=138)
    assert saved(tmp_path)["global_step"] == 2
