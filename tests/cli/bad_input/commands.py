"""Mistakes in the words of a command."""

from bad_input.words import FINE, LAST, PREDICT

CASES = {
    "plan without words": (("plan",), ["required", "model", "data"]),
    "fit without words": (("fit",), ["required", "model", "data"]),
    "test without words": (("test",), ["required", "model", "data"]),
    "predict without words": (("predict",), ["required", "model", "data"]),
    "export without words": (("export",), ["required", "checkpoint", "target", "realuid export --help"]),
    "an unknown option of report": (("report", "--best"), ["--best", "realuid report --help"]),
    "an unknown option of export": (("export", "a", "b", "--raw"), ["--raw"]),
    "an unknown option of gaussian": (("gaussian", "--alpha=1"), ["--alpha", "realuid gaussian --help"]),
    "a wrong number of gaussian": (("gaussian", "--steps=0"), ["steps", "0"]),
    "a command twice": (("fit", *FINE), ["unrecognized", "fit"]),
    "a word too many": ((*FINE, "extra"), ["unrecognized", "extra"]),
    "an option without a name": ((*FINE, "--=3"), ["--=3"]),
    "a command in capitals": (("FIT", *FINE[1:]), ["expected one of the commands", "'FIT'"]),
    "Lightning's optimizer": ((*FINE, "--optimizer=Adam"), ["unrecognized", "--optimizer=Adam"]),
    "Lightning's schedule": ((*FINE, "--lr_scheduler=StepLR"), ["unrecognized", "--lr_scheduler=StepLR"]),
    "an optimizer for a teacher beside its own": (
        (*FINE, "--optimizer=SGD", "--optimizer.lr=1"),
        ["unrecognized", "--optimizer"],
    ),
    "what to print of a config": ((*FINE, "--print_config=all"), ["print_config", "all"]),
    "predictions in another format": ((*PREDICT, LAST, "--writer.format=jpg"), ["writer.format", "png", "jpg"]),
    "predictions into a file": (
        (*PREDICT, LAST, "--writer.folder=text.ckpt/x", "--trainer.default_root_dir=runs/demo/distil"),
        ["text.ckpt"],
    ),
    "an average of no number": (("export", "a.ckpt", "b.safetensors", "--ema=much"), ["ema", "much"]),
    "export of a URL": (
        ("export", "https://x.invalid/a.ckpt", "b.safetensors"),
        ["path of a checkpoint", "https://x.invalid/a.ckpt"],
    ),
    "export of nothing": (("export", "", "b.safetensors"), ["path of a checkpoint", "nothing"]),
    "export from a home that has none": (
        ("export", "~/gone.ckpt", "b.safetensors"),
        ["home/gone.ckpt", "no such file"],
    ),
    "report of a file": (("report", "text.ckpt"), ["no figures.jsonl"]),
    "report of a home without runs": (("report", "~"), ["home holds no figures.jsonl"]),
}
