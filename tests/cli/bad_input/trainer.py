"""Mistakes in the trainer's options, loggers, plugins, profilers and callbacks."""

from bad_input.words import FINE, PLAN, TEACHER


def with_option(name, *words):
    return (*FINE, f"--trainer.{name}"), ["trainer", *words]


CASES = {
    "a logger that is not installed": ((*FINE, "--trainer.logger=CometLogger"), ["CometLogger", "comet"]),
    "another logger that is not installed": ((*FINE, "--trainer.logger=MLFlowLogger"), ["MLFlowLogger", "mlflow"]),
    "an unknown logger": with_option("logger=Nope", "logger", "no class Nope is known"),
    "a logger without its folder": with_option("logger=lightning.pytorch.loggers.CSVLogger", "required", "save_dir"),
    "an empty run folder": with_option("default_root_dir=", "default_root_dir must name the folder"),
    "a run folder in a bucket": with_option("default_root_dir=s3://bucket/run", "folder on this machine, got 's3://"),
    "a strategy that spawns": with_option("strategy=ddp_spawn", "strategy ddp_spawn", "use ddp_per_network"),
    "an unknown option of the trainer": with_option("max_step=3", "--trainer.max_step=3"),
    "an unknown callback": with_option("callbacks=Nope", "callbacks", "no class Nope is known"),
    "a number for callbacks": with_option("callbacks=5", "callbacks"),
    "a callback without its metric": with_option("callbacks=EarlyStopping", "required", "monitor"),
    "stopping by what is not measured": (
        (*FINE, "--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=fid/ema_0.5"),
        ["EarlyStopping: monitor names 'fid/ema_0.5'", "fid/raw"],
    ),
    "a mode of stopping": (
        (
            *FINE,
            "--trainer.callbacks=EarlyStopping",
            "--trainer.callbacks.monitor=fid/raw",
            "--trainer.callbacks.mode=low",
        ),
        ["EarlyStopping", "low"],
    ),
    "an unknown plugin": with_option("plugins=Nope", "plugins", "no class Nope is known"),
    "a number for plugins": with_option("plugins=5", "plugins"),
    "a plugin without its mode": with_option("plugins=BitsandbytesPrecision", "plugins", "required", "mode"),
    "an unknown profiler": with_option("profiler=stopwatch", "profiler", "simple"),
    "an unknown accelerator": with_option("accelerator=quantum", "quantum", "cpu"),
    "an accelerator that is not installed": with_option("accelerator=tpu", "torch_xla"),
    "an accelerator that is not here": with_option("accelerator=mps", "MPS"),
    "an unknown precision": with_option("precision=8", "precision", "bf16-mixed"),
    "a precision that is not installed": with_option("precision=transformer-engine", "transformer_engine"),
    "float16 weights": ((*FINE, "--trainer.precision=16-true"), ["16-true", "use bf16-mixed or 32-true"]),
    "a word for devices": with_option("devices=some", "devices"),
    "minus five devices": with_option("devices=-5", "devices"),
    "an empty list of devices": with_option("devices=[]", "devices"),
    "a word for nodes": with_option("num_nodes=some", "num_nodes", "int", "some"),
    "a time that is none": with_option("max_time=soon", "soon", "DD:HH:MM:SS"),
    "a time of unknown units": with_option("max_time={fortnights: 1}", "fortnights"),
    "minus three epochs": with_option("max_epochs=-3", "max_epochs", "-3"),
    "minus one step at least": with_option("min_steps=-1", "min_steps must be at least 0, got -1"),
    "a word for steps": with_option("max_steps=many", "max_steps", "int", "many"),
    "half a step": with_option("max_steps=1.5", "max_steps", "int", "1.5"),
    "minus one batch of validation": with_option("limit_val_batches=-1", "limit_val_batches", "-1"),
    "one and a half validations": with_option("limit_val_batches=1.5", "limit_val_batches", "1.5"),
    "no training batch": with_option("limit_train_batches=0", "limit_train_batches must be above 0"),
    "batches that are no number": with_option("limit_train_batches=.nan", "limit_train_batches", "nan"),
    "validation at every minus one step": with_option("val_check_interval=-1", "val_check_interval", "-1"),
    "validation at every half of no end": with_option("val_check_interval=0.5", "val_check_interval"),
    "validation at some time": with_option("val_check_interval=soon", "val_check_interval", "soon"),
    "validation at every no epoch": with_option(
        "check_val_every_n_epoch=0", "check_val_every_n_epoch must be at least 1"
    ),
    "validation at every half epoch": with_option("check_val_every_n_epoch=0.5", "check_val_every_n_epoch", "int"),
    "a log at every minus one step": with_option("log_every_n_steps=-1", "log_every_n_steps must be at least 0"),
    "no accumulation": with_option("accumulate_grad_batches=0", "accumulate_grad_batches must be at least 1, got 0"),
    "minus one accumulation of a teacher": (
        (*TEACHER, "--trainer.accumulate_grad_batches=-1"),
        ["accumulate_grad_batches must be at least 1, got -1"],
    ),
    "accumulation by Lightning": with_option("accumulate_grad_batches=4", "accumulate_grad_batches=4"),
    "clipping by Lightning": with_option("gradient_clip_val=1", "gradient_clip_val"),
    "an unknown way to clip": with_option("gradient_clip_algorithm=hard", "gradient_clip_algorithm", "hard"),
    "minus one fast step": with_option("fast_dev_run=-1", "fast_dev_run"),
    "a word for a switch of the trainer": with_option("deterministic=very", "deterministic", "warn"),
    "another word for a switch": with_option("detect_anomaly=x", "detect_anomaly", "bool"),
    "maybe checkpoints": with_option("enable_checkpointing=maybe", "enable_checkpointing", "bool"),
    "a negative share of a data set": with_option("overfit_batches=-1", "overfit_batches", "-1"),
    "half of a stream": with_option("overfit_batches=0.5", "overfit_batches must be 0", "got 0.5"),
    "two batches again and again": with_option("overfit_batches=2", "overfit_batches must be 0", "got 2"),
    "minus two checks before training": with_option(
        "num_sanity_val_steps=-2", "num_sanity_val_steps must be at least -1"
    ),
    "reloading at every minus one epoch": with_option("reload_dataloaders_every_n_epochs=-1", "reload_dataloaders"),
    "barebones": with_option("barebones=true", "barebones"),
    "a strategy by its class": with_option("strategy=DDPStrategy", "ddpstrategy"),
    "a number for a strategy": with_option("strategy=5", "strategy='5'"),
    "a strategy that is not installed": with_option("strategy=deepspeed", "DeepSpeed"),
    "Lightning's own FSDP on a CPU": with_option("strategy=fsdp", "fsdp"),
    "a word for a seed": ((*FINE, "--seed_everything=x"), ["seed_everything: expected bool or int"]),
    "a seed beyond bounds": ((*FINE, "--seed_everything=99999999999999999999"), ["seed_everything", "4294967295"]),
    "half a seed": ((*FINE, "--seed_everything=1.5"), ["seed_everything"]),
    "a metric of no prefix": ((*FINE, "--checkpoint.monitor=raw"), ["monitor names 'raw'", "fid/raw"]),
    "a metric of a wrong prefix": ((*FINE, "--checkpoint.monitor=fidd/raw"), ["monitor names 'fidd/raw'", "fid/raw"]),
    "an empty metric": ((*FINE, "--checkpoint.monitor="), ["monitor names ''", "fid/raw"]),
    "a likeness that is not measured": (
        (*FINE, "--checkpoint.monitor=psnr/no"),
        ["monitor names 'psnr/no'", "psnr/raw"],
    ),
    "an unknown mode": ((*FINE, "--checkpoint.mode=low"), ["checkpoint.mode", "'min', 'max'", "low"]),
    "a metric that a plan refuses": ((*PLAN, "--checkpoint.monitor=fidd/raw"), ["monitor names 'fidd/raw'"]),
}
