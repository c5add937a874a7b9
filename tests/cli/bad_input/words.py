"""Words of commands that are fine, to put a mistake behind."""

from pathlib import Path

CONFIGS = Path(__file__).parents[3] / "configs" / "demo"
TEACHER, DISTIL = (("fit", "--config", str(CONFIGS / f"{name}.yaml")) for name in ("teacher", "distil"))
SMALL = ("--model.network.width=32", "--trainer.max_steps=1")
FINE = (*DISTIL, *SMALL)
TEACHER_FILE, GENERATOR_FILE = (f"runs/demo/{name}/checkpoints/last.ckpt" for name in ("teacher", "distil"))
LAST = f"--ckpt_path={GENERATOR_FILE}"
VALIDATE, TEST, PREDICT, PLAN = ((command, *FINE[1:]) for command in ("validate", "test", "predict", "plan"))
OTHER_DATA = ("--data.reference=null", "--data.held_out=null", "--features=RawFeatures", "--metrics=[FID]")
"""With another source, a config gives up what it compares with and by."""
