from pathlib import Path

import pytest

from realuid_lightning.errors import UserError
from realuid_lightning.sweeping import Sweep, parse_factors

FOLDER = Path("runs/sweeps/x")


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("model.alpha=0.9", ("0.9",)),
        ("model.alpha=0.9,0.98, 1", ("0.9", "0.98", "1")),
        ("ratio=0.98,1e0", ("0.98", "1e0")),
        ("seeds=3", ("3",)),
        ("seeds=0-2,7", ("0", "1", "2", "7")),
        ("model.divergence=null,SiD", ("null", "SiD")),
        ("model.ema=[0.9,0.99],[]", ("[0.9,0.99]", "[]")),
        ("a=[[1,2],[3]],{b: {c: [1,2]}}", ("[[1,2],[3]]", "{b: {c: [1,2]}}")),
        ("a='x]',\"y,{\"", ("'x]'", '"y,{"')),
        ("a=\udcff,b", ("\udcff", "b")),
        ("model.divergence={class_path: PseudoHuber, init_args: [1,2]},L2", None),
        ("data.source.name='a,b',c=d", ("'a,b'", "c=d")),
    ],
)
def test_values_are_separated_by_commas_outside_brackets(word, values):
    (factor,) = parse_factors([word])
    assert factor.name == word.partition("=")[0]
    assert factor.values == (values or ("{class_path: PseudoHuber, init_args: [1,2]}", "L2"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["expected factors such as"]),
        (["model.alpha"], ["needs values"]),
        (["model.alpha="], ["needs values"]),
        (["model.alpha=1,,2"], ["needs values"]),
        (["model.ema=[1,2"], ["needs values"]),
        (["a=]1,2["], ["needs values"]),
        (["a='1,2"], ["needs values"]),
        (["9=1", "extra"], ["got '9=1'", "extra"]),
        (["ratio=one", "model.alpha=inf"], ["ratio needs numbers, got 'one'", "model.alpha needs numbers, got 'inf'"]),
        (["model.alpha=1,1"], ["the value 1 more than once"]),
        (["model.beta=1", "ratio=1"], ["both set model.beta"]),
        (["seeds=0", "seeds=1"], ["seeds is named 2 times"]),
        (["seeds=2-1"], ["seeds: expected indices", "2-1"]),
        (["seeds=4294967296"], ["4294967295"]),
        (["seed_everything=1"], ["seeds=0-4"]),
        (["seeds=0-999", "model.alpha=0.1,0.2,0.3", "data.batch_size=" + ",".join(map(str, range(99)))], ["297000"]),
    ],
)
def test_all_faults_at_once(words, told):
    with pytest.raises(UserError) as caught:
        parse_factors(words)
    assert all(part in str(caught.value) for part in told)
    assert len(str(caught.value).splitlines()) <= len(told)


def cells(*words, **options):
    return Sweep(FOLDER, ("--config", "a.yaml"), **options).tasks(parse_factors(words))


def test_cells_are_named_by_their_factors_and_ratio_is_of_alpha():
    made = cells("model.alpha=0.9,1", "ratio=0.98,1.02", "seeds=0-1")
    assert len({task.name for task in made}) == len(made) == 8
    assert made[0].name == "alpha=0.9,ratio=0.98,seed=0"
    assert made[1].factors == {"model.alpha": "0.9", "ratio": "0.98", "seeds": "1"}
    assert made[2].words == (
        *("fit", "--trainer.enable_progress_bar=false", "--config", "a.yaml", "--model.alpha=0.9"),
        *("--model.beta=0.918", "--seed_everything=0"),
        *("--trainer.default_root_dir=runs/sweeps/x/alpha=0.9,ratio=1.02,seed=0", "--ckpt_path=resume"),
    )
    assert "--model.beta=0.475" in cells("ratio=0.95", alpha=0.5)[0].words
    assert cells("a=\udcff")[0].name.startswith("a=_-")


def test_folders_are_distinct_and_plain_whatever_the_values():
    names = [task.name for task in cells("model.path={a: 1},{a; 1},a/../../b", "data.path=x,y")]
    assert len(set(names)) == 6
    assert not any(set(name) & set("/ {}:") for name in names)
    assert all("model.path=" in name and "data.path=" in name for name in names)


def test_a_teacher_is_trained_once_a_seed_before_its_cells():
    made = cells("model.alpha=0.9,1", "seeds=0-1", teacher=("--config", "t.yaml"))
    assert [task.name for task in made[:2]] == ["teacher/seed=0", "teacher/seed=1"]
    assert [task.after for task in made] == [None, None, *["teacher/seed=0", "teacher/seed=1"] * 2]
    assert "--seed_everything=1" in made[1].words
    assert "--model.teacher_ckpt=runs/sweeps/x/teacher/seed=1/checkpoints/last.ckpt" in made[3].words
    (teacher, only) = cells("model.alpha=1", teacher=("--config", "t.yaml"))
    assert (teacher.name, only.after) == ("teacher", "teacher")
