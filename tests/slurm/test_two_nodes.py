"""The shipped job files on a real SLURM: signalled, preempted, back in the queue, resumed, and the same in the end."""

import os
import sys
from pathlib import Path

import torch

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS = 400
HIGH = ("--partition=high", "--nodes=2", "--gpus-per-node=1")
TINY = [
    *("--config", CONFIGS / "demo" / "teacher.yaml", "--trainer.accelerator=cpu", f"--trainer.max_steps={STEPS}"),
    *("--trainer.val_check_interval=200", "--data.batch_size=16", "--data.eval_samples=16", "--checkpoint.every=10"),
    *("--model.network.width=32", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"),
    *("--trainer.log_every_n_steps=100",),
]


def submit(cluster, folder, script, *options, run):
    """Submit a job file as a user does, from an environment with ``realuid`` on its PATH; return the job's number."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), cluster.environment["PATH"]])
    environment = cluster.environment | {"PATH": programs, "OMP_NUM_THREADS": "1"}
    small = ["--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", f"--chdir={folder}", *options]
    command = ["sbatch", "--parsable", *small, CONFIGS / "slurm" / script, *TINY, f"--trainer.default_root_dir={run}"]
    return cluster.ask(*map(str, command), env=environment).strip()


def state(cluster, job):
    return dict(word.partition("=")[::2] for word in cluster.ask("scontrol", "show", "job", "-o", job).split())


def weights(run):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == STEPS
    return content["state_dict"]


def test_a_job_on_two_nodes_goes_on_after_a_signal_and_a_preemption(cluster, tmp_path):
    whole = submit(cluster, tmp_path, "several_nodes.sbatch", run="whole")
    cluster.wait(lambda: state(cluster, whole)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 90)
    log = tmp_path / f"realuid-{whole}.log"
    assert state(cluster, whole)["ExitCode"] == "0:0", log.read_text()[-3000:]

    job = submit(cluster, tmp_path, "several_nodes.sbatch", run="stopped")
    log, last = tmp_path / f"realuid-{job}.log", tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    cluster.wait(last.is_file, 60)
    cluster.ask("scancel", "--signal=USR1", job)  # what sbatch --signal sends before the time limit
    cluster.wait(lambda: state(cluster, job).get("Restarts") == "1", 30)
    saved = last.stat().st_mtime_ns
    cluster.wait(lambda: last.stat().st_mtime_ns != saved, 60)
    # SIGTERM without warning, for a job that goes first.
    first = cluster.ask("sbatch", "--parsable", *HIGH, f"--chdir={tmp_path}", "--wrap=sleep 1").strip()
    cluster.wait(lambda: state(cluster, job).get("Restarts") == "2", 30)
    cluster.wait(lambda: state(cluster, job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 60)
    said = log.read_text()
    assert state(cluster, job)["ExitCode"] == "0:0", said[-3000:]
    assert state(cluster, first)["JobState"] == "COMPLETED"
    for signal in ("SIGUSR1", "SIGTERM"):
        assert f"{signal}: stopped at step" in said
    assert said.count("Restored all states") == 2
    assert "Traceback" not in said
    one, other = (weights(tmp_path / run) for run in ("whole", "stopped"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_cancelled_job_saves_and_stays_away(cluster, tmp_path):
    job = submit(cluster, tmp_path, "one_node.sbatch", run="cancelled")
    last = tmp_path / "cancelled" / "checkpoints" / "last.ckpt"
    cluster.wait(last.is_file, 60)
    cluster.ask("scancel", job)
    cluster.wait(lambda: state(cluster, job)["JobState"] == "CANCELLED", 30)
    said = (tmp_path / f"realuid-{job}.log").read_text()
    assert "SIGTERM: stopped at step" in said
    assert "Traceback" not in said
    assert state(cluster, job)["Restarts"] == "0"
