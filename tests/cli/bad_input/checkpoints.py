"""Mistakes in what to go on from."""

from bad_input.words import FINE, LAST, PLAN, PREDICT, TEST, VALIDATE

PATH = "expected the path of a checkpoint file"
WHICH = "expected last, best, resume or the path of a file"

CASES = {
    "Lightning's hpc": ((*FINE, "--ckpt_path=hpc"), [WHICH, "hpc"]),
    "Lightning's hpc in an evaluation": ((*VALIDATE, "--ckpt_path=hpc"), [WHICH, "hpc"]),
    "Lightning's registry": ((*FINE, "--ckpt_path=registry:model:version:1"), [WHICH, "registry"]),
    "a URL to resume from": ((*FINE, "--ckpt_path=https://x.invalid/a.ckpt"), [WHICH, "https://x.invalid/a.ckpt"]),
    "a bucket to predict from": ((*PREDICT, "--ckpt_path=s3://bucket/a.ckpt"), [WHICH, "s3://bucket/a.ckpt"]),
    "nothing to resume from": ((*FINE, "--ckpt_path="), [WHICH, "nothing"]),
    "a folder to resume from": ((*FINE, "--ckpt_path=runs"), ["runs", "it is a folder"]),
    "a checkpoint that is gone": ((*FINE, "--ckpt_path=gone.ckpt"), ["gone.ckpt", "no such file"]),
    "a checkpoint that is gone from home": ((*FINE, "--ckpt_path=~/gone.ckpt"), ["home/gone.ckpt", "no such file"]),
    "an empty name of a teacher": ((*FINE, "--model.teacher_ckpt="), [PATH, "nothing"]),
    "an empty name of a generator": ((*FINE, "--model.generator_ckpt="), [PATH, "nothing"]),
    "a URL of a teacher": (
        (*FINE, "--model.teacher_ckpt=https://x.invalid/a.ckpt"),
        [PATH, "https://x.invalid/a.ckpt"],
    ),
    "a teacher that is gone from home": ((*FINE, "--model.teacher_ckpt=~/a.ckpt"), ["home/a.ckpt", "no such file"]),
    "a teacher that has diverged": (
        (*FINE, "--model.teacher_ckpt=diverged.ckpt"),
        ["teacher_ckpt diverged.ckpt: weights are no finite numbers", "not finite: ", "take an earlier checkpoint"],
    ),
    "an average of no number of a teacher": ((*FINE, "--model.teacher_ema=much"), ["teacher_ema", "float", "much"]),
    "an average that is not finite": ((*FINE, "--model.teacher_ema=.nan"), ["teacher_ema must be finite, got nan"]),
    "an average of a teacher without one": (
        (*FINE, "--model.teacher_ckpt=null"),
        ["teacher_ema is set, but teacher_ckpt is null"],
    ),
    "test what is gone": ((*TEST, "--ckpt_path=gone.ckpt"), ["gone.ckpt", "no such file"]),
    "test of a text": ((*TEST, "--ckpt_path=text.ckpt"), ["text.ckpt", "another format"]),
    "plan of a teacher that is gone": (
        (*PLAN, "--model.network.num_classes=10", "--data.labels=false"),
        ["expects one of 10 classes", "data.labels is false"],
    ),
    "predict with another average": ((*PREDICT, LAST, "--model.predict_with=ema_0.5"), ["ema_0.5", "ema_0.99"]),
}
