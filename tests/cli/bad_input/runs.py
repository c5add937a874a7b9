"""Mistakes in whatever a run is made of: its objective, teacher, data, folder, devices."""

from bad_input.words import (
    DISTIL,
    FINE,
    GENERATOR_FILE,
    LAST,
    OTHER_DATA,
    PLAN,
    PREDICT,
    TEACHER,
    TEACHER_FILE,
    VALIDATE,
)


def images(folder):
    options = {"root": folder, "size": 8, "channels": 1}
    return (*FINE, "--data.source=ImageFolder", *(f"--data.source.{name}={value}" for name, value in options.items()))


CASES = {
    "alpha above 1": ((*FINE, "--model.alpha=1.5"), ["alpha must be in (0, 1], got 1.5"]),
    "alpha zero": ((*FINE, "--model.alpha=0"), ["alpha must be in (0, 1], got 0"]),
    "alpha no number": ((*FINE, "--model.alpha=much"), ["alpha", "float", "much"]),
    "negative fake steps": ((*FINE, "--model.fake_steps=-1"), ["fake_steps must be at least 1, got -1"]),
    "negative steps": ((*FINE, "--trainer.max_steps=-5"), ["max_steps", "-5"]),
    "decay of 1": ((*FINE, "--model.ema=[1.0]"), ["decay must be in [0, 1), got 1.0"]),
    "unknown fake_init": ((*FINE, "--model.fake_init=zeros"), ["fake_init", "teacher", "random", "zeros"]),
    "unknown average to measure": ((*FINE, "--model.evaluate=[ema_0.5]"), ["evaluate names 'ema_0.5'", "raw, ema_0.9"]),
    "several faults of several components": (
        (*FINE, "--model.alpha=2", "--model.clip=0", "--data.batch_size=0", "--grid.count=0", "--checkpoint.keep=-2"),
        ["alpha must", "clip must", "batch_size must", "count must", "keep must"],
    ),
    "missing teacher": ((*FINE, "--model.teacher_ckpt=nowhere.ckpt"), ["nowhere.ckpt", "no such file"]),
    "teacher is a folder": ((*FINE, "--model.teacher_ckpt=."), ["folder"]),
    "empty teacher": ((*FINE, "--model.teacher_ckpt=empty.ckpt"), ["empty.ckpt", "empty"]),
    "truncated teacher": (
        (*FINE, "--model.teacher_ckpt=cut.ckpt"),
        ["cut.ckpt", "cut off", "copy or download it again"],
    ),
    "text as a teacher": ((*FINE, "--model.teacher_ckpt=text.ckpt"), ["text.ckpt", "another format"]),
    "foreign teacher": (
        (*FINE, "--model.teacher_ckpt=foreign.pt"),
        ["foreign.pt", "expected a checkpoint of this package"],
    ),
    "code in a teacher": ((*FINE, "--model.teacher_ckpt=code.pt"), ["code.pt", "could run code"]),
    "distilled as a teacher": (
        (*FINE, f"--model.teacher_ckpt={GENERATOR_FILE}"),
        ["expected the checkpoint of a teacher, got that of a generator"],
    ),
    "teacher as a generator": (
        (*FINE, f"--model.generator_ckpt={TEACHER_FILE}"),
        ["expected the checkpoint of a generator, got that of a teacher"],
    ),
    "no such average": ((*FINE, "--model.teacher_ema=0.5"), ["no average of decay 0.5; available: 0.999"]),
    "other width": (
        (*DISTIL, "--trainer.max_steps=1", "--model.network.width=64"),
        ["do not fit MLP, nothing was loaded", "of another shape", "expected (", "width"],
    ),
    "other depth": ((*FINE, "--model.network.depth=5"), ["do not fit MLP", "missing"]),
    "conditional network, unconditional teacher": (
        (*FINE, "--model.network.num_classes=10"),
        ["label_emb.weight", "set num_classes: null"],
    ),
    "other path": ((*FINE, "--model.path.schedule=CosineSchedule"), ["CosineSchedule()", "set model.path"]),
    "labels missing": (
        (*FINE, "--model.network.num_classes=10", "--data.labels=false"),
        ["expects one of 10 classes", "data.labels is false"],
    ),
    "labels unwanted": ((*FINE, "--data.labels=true"), ["looks unconditional", "labels: false"]),
    "labels that the data lacks": (
        (
            *(*FINE, "--data.source=Gaussian", "--data.source.mean=[0]", "--data.source.std=[1]", "--data.labels=true"),
            *OTHER_DATA,
        ),
        ["labels", "Gaussian has none"],
    ),
    "other shape": ((*FINE, "--model.network.shape=[1,4,4]"), ["(1, 4, 4)", "(1, 8, 8)"]),
    "empty image folder": (images("hollow"), ["no images in hollow"]),
    "missing image folder": (images("gone"), ["gone"]),
    "broken image": (images("broken"), [".png"]),
    "missing CIFAR-10": (
        (*TEACHER, "--trainer.max_steps=1", "--data.source=CIFAR10", "--model.network.shape=[3,32,32]", *OTHER_DATA),
        ["CIFAR10", "download"],
    ),
    "unknown key": ((*FINE, "--model.alhpa=0.9"), ["'alhpa' is not accepted"]),
    "unknown group": ((*FINE, "--modle.alpha=0.9"), ["--modle.alpha"]),
    "no config": (("fit",), ["model"]),
    "unknown class": ((*FINE, "--model=NoSuchModule"), ["NoSuchModule"]),
    "unknown command": (("distill",), ["fit, validate, test, predict", "'distill'"]),
    "resume what never ran": ((*FINE, "--ckpt_path=last"), ["no checkpoints/last.ckpt"]),
    "resume from a text": ((*FINE, "--ckpt_path=text.ckpt"), ["text.ckpt", "another format"]),
    "resume from a teacher": (
        (*FINE, f"--ckpt_path={TEACHER_FILE}"),
        ["holds a teacher, but RealUIDModule resumes a generator"],
    ),
    "resume on another path": (
        (*FINE, "--model.path.schedule=CosineSchedule", LAST),
        ["ckpt_path: made on the path FlowMatchingPath(schedule=LinearSchedule())", "CosineSchedule"],
    ),
    "resume from a bare state dict": (
        (*FINE, "--ckpt_path=state.pt"),
        ["state.pt", "expected a checkpoint of this package", "teacher_ckpt"],
    ),
    "begin in a used folder": ((*FINE, "--trainer.default_root_dir=runs/demo/distil"), ["--ckpt_path last"]),
    "Inception weights that are not there": (
        (*FINE, "--features=InceptionFeatures", "--features.weights=inception.pth"),
        ["inception.pth", "--features"],
    ),
    "features of another shape": (
        (*FINE, "--features=RawFeatures", "--features.shape=[3,8,8]"),
        ["raw values (192)", "(1, 8, 8)", "[1, 8, 8]"],
    ),
    "a file where the run folder should be": ((*FINE, "--trainer.default_root_dir=text.ckpt/run"), ["text.ckpt"]),
    "export into nowhere": (("export", GENERATOR_FILE, "text.ckpt/generator.safetensors"), ["text.ckpt"]),
    "a distance that is not measured": (
        (*FINE, "--checkpoint.monitor=fid/nothing"),
        ["monitor names 'fid/nothing'", "fid/raw, fid/ema_0.9"],
    ),
    "a seed out of range": ((*FINE, "--seed_everything=-3"), ["seed_everything", "-3"]),
    "training without end": ((*FINE, "--trainer.max_steps=-1", "--trainer.max_epochs=2"), ["no end", "max_steps"]),
    "broken seeds": ((*PREDICT, LAST, "--data.predict_seeds=9-3"), ["predict_seeds", "9-3"]),
    "updates to leave out": ((*FINE, "--model.max_skips=-1"), ["max_skips must be at least 0, got -1"]),
    "no GPU here": ((*FINE, "--trainer.accelerator=gpu"), ["trainer", "gpu"]),
    "no device": ((*FINE, "--trainer.devices=0"), ["trainer", "devices"]),
    "no node": ((*FINE, "--trainer.num_nodes=0"), ["trainer", "num_nodes"]),
    "unknown strategy": ((*FINE, "--trainer.strategy=dpp"), ["trainer", "strategy='dpp'"]),
    "weights in bf16": ((*FINE, "--trainer.precision=bf16-true"), ["use bf16-mixed or 32-true"]),
    "validation at every no step": (
        (*FINE, "--trainer.val_check_interval=0"),
        ["must be above 0", "limit_val_batches"],
    ),
    "a first node that nobody knows": (
        (
            *("MASTER_ADDR=nowhere.invalid", "MASTER_PORT=1", "WORLD_SIZE=2", "NODE_RANK=0", "LOCAL_RANK=0"),
            *(*FINE, "--trainer.devices=2", "--trainer.strategy=ddp_per_network"),
        ),
        ["nowhere.invalid", "MASTER_ADDR"],
    ),
    "a run folder that can not be": ((*FINE, "--trainer.default_root_dir=/proc/run"), ["/proc/run"]),
    "resume in an evaluation": ((*VALIDATE, "--ckpt_path=resume"), ["resume is for fit"]),
    "evaluate what never ran": (
        (*VALIDATE, "--trainer.default_root_dir=hollow", "--ckpt_path=last"),
        ["hollow", "no checkpoints/last.ckpt"],
    ),
    "the best of a run without a metric": (
        (*VALIDATE, "--trainer.default_root_dir=runs/demo/teacher", "--ckpt_path=best"),
        ["monitors nothing", "--checkpoint.monitor"],
    ),
    "nothing but damaged checkpoints": (
        (*FINE, "--trainer.default_root_dir=damaged", "--ckpt_path=last"),
        ["last.ckpt", "cut off", "no checkpoint in damaged is whole"],
    ),
    "plan for a strange memory": ((*PLAN, "--device_memory=lots"), ["24GiB", "'lots'"]),
    "plan of a mistake": ((*PLAN, "--model.alpha=2"), ["alpha must be in (0, 1], got 2"]),
    "report of nothing": (("report", "hollow"), ["no figures.jsonl"]),
    "export to another format": (("export", GENERATOR_FILE, "generator.bin"), [".safetensors"]),
    "export of a teacher": (("export", TEACHER_FILE, "x.safetensors"), ["holds a teacher"]),
}
