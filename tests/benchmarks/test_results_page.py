"""The page of results: what is kept of runs, its table and its pictures."""

import json
import math
import sys
from pathlib import Path
from shutil import rmtree

import pytest
import torch
import yaml
from helpers import benchmark, checkpoint
from PIL import Image
from torchvision.utils import make_grid

from realuid_lightning import TeacherModule
from realuid_lightning.checkpoints import read_teacher
from realuid_lightning.evaluation.grids import draw
from realuid_lightning.evaluation.writer import write_png
from realuid_lightning.networks import MLP
from realuid_lightning.paths import FlowMatchingPath
from realuid_lightning.reporting import Run

DOCS = Path(__file__).parents[2] / "docs"
PLACES = sorted(each for each in (DOCS / "results").iterdir() if each.is_dir())


def loaded(name, monkeypatch):
    """Import a benchmark under the name by which others import it."""
    monkeypatch.setitem(sys.modules, name, benchmark(name.replace(".", "/")))
    return sys.modules[name]


@pytest.fixture
def results(monkeypatch):
    for name in ("frameworks", "convergence", "parts.kept", "parts.pages", "results"):
        module = loaded(name, monkeypatch)
    monkeypatch.setattr(sys.modules["parts.kept"], "flops", lambda run: 1e9)
    return module


def ran(folder, fids, sampler="ema_0.99", model=(), state="done", colour=0):
    """Leave what a run leaves: figures by step, times, config and pictures."""
    (folder / "samples" / sampler).mkdir(parents=True, exist_ok=True)
    ends = {name: dict.fromkeys(("fid", "precision", "recall", "coverage"), 0.5) for name in ("floor", "gaussian")}
    with (folder / "figures.jsonl").open("a") as file:
        for step, fid in fids.items():
            figures = {"fid": fid, "precision": 0.9, "recall": 0.8, "coverage": 0.7}
            row = {"step": step, "sampler": sampler, "figures": figures, **ends, "protocol": {"features": "f"}}
            file.write(json.dumps(row) + "\n")
            images = torch.full((64, 3, 32, 32), colour, dtype=torch.uint8)
            write_png(make_grid(images, nrow=8, padding=2), folder / "samples" / sampler / f"step_{step:08d}.png")
    (folder / "fits.json").write_text(json.dumps([{"from_step": 0, "to_step": max(fids), "training_seconds": 36}]))
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": dict(model)}}))
    if folder.name.startswith("seed="):
        (folder / "sweep.json").write_text(json.dumps({"state": state}))


@pytest.fixture
def detail(results, monkeypatch):
    return loaded("detail", monkeypatch)


@pytest.fixture
def runs(tmp_path):
    """A teacher, UID with one seed, RealUID with two seeds and a third that is not done."""
    place = tmp_path / "runs" / "images"
    ran(place / "teacher", {3: 0.2}, "ema_0.9_steps_50", colour=250)
    ran(place / "teacher", {3: 9.0}, "ema_0.9_steps_1", colour=20)
    ran(place / "uid" / "seed=0", {2: 4.0, 4: 2.0}, model={"alpha": 1.0, "beta": 1.0}, colour=100)
    real = {"alpha": 0.9, "beta": 1, "gan": {"class_path": "a.GAN", "init_args": {"weight": 0.3}}}
    ran(place / "realuid" / "seed=0", {2: 2.0, 4: 1.0}, model=real, colour=200)
    ran(place / "realuid" / "seed=1", {2: 4.0, 4: 1.4}, model=real)
    ran(place / "realuid" / "seed=2", {2: 4.0}, model=real, state="begun")
    return tmp_path


def made(results, runs, monkeypatch, *words):
    (runs / "page.md").write_text(
        "Before\n\n<!-- images: made by make results -->\nold\n<!-- images: end -->\n\nAfter\n"
    )
    monkeypatch.setattr(
        sys, "argv", ["results.py", "--folder", str(runs / "kept"), "--page", str(runs / "page.md"), *words]
    )
    results.main()
    return (runs / "page.md").read_text()


def test_the_page_has_a_row_a_method_and_the_rest_of_it_stays(results, runs, monkeypatch):
    page = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    assert page.startswith("Before\n\n<!-- images: made")
    assert page.endswith("<!-- images: end -->\n\nAfter\n")
    assert "old" not in page
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[2:8] == [
        "| held-out real images: the floor |  |  | 0.5 | 0.5 | 0.5 | 0.5 |  |  |  |",
        "| teacher, 50 steps |  | 1 | 0.2 | 0.9 | 0.8 | 0.7 | 3 | 0.01 | 3e+09 |",
        "| teacher, 1 step |  | 1 | 9 | 0.9 | 0.8 | 0.7 | 3 | 0.01 | 3e+09 |",
        "| `realuid` | alpha 0.9, beta 1, gan GAN (weight 0.3) | 2 | 1.2 ± 0.28 | 0.9 ± 0 | 0.8 ± 0 | 0.7 ± 0 | 4 "
        "| 0.01 | 4e+09 |",
        "| `uid` | alpha 1.0, beta 1.0 | 1 | 2 | 0.9 | 0.8 | 0.7 | 4 | 0.01 | 4e+09 |",
        "| a Gaussian with the data's moments |  |  | 0.5 | 0.5 | 0.5 | 0.5 |  |  |  |",
    ]
    assert lines[8:] == [
        "| FID after so many updates, by seed | seeds | 2 | 4 |",
        "| --- | --- | --- | --- |",
        "| `realuid` | 0, 1 | 2, 4 | 1, 1.4 |",
        "| `uid` | 0 | 4 | 2 |",
    ]
    # 2 after step 2 of 4, and on the way from 4 to 1.4.
    share = math.log(4 / 2) / math.log(4 / 1.4)
    mean = (2 + 4 / (2 + 2 * share)) / 2
    assert f"`realuid` reaches the distance at which `uid` ends, 2, in 1 / ({mean:.3g} ± " in page


@pytest.mark.parametrize(
    ("samplers", "shown"),
    [(["ema_0.99", "ema_0.9"], 0), (["raw", "ema_0.99", "ema_0.9"], 1), (["raw"], 0)],
)
def test_rows_are_shown_by_the_average_that_they_evaluate_first(results, runs, monkeypatch, samplers, shown):
    for index, sampler in enumerate(samplers):
        wide = runs / "runs" / "images" / "wide" / "seed=0"
        fids = {2: 3.0, 4: 0.5 + index / 10}
        ran(wide, fids, sampler, model={"alpha": 1.0, "beta": 1.0}, colour=70 + 10 * index)
    page = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    assert f"| `wide` | alpha 1.0, beta 1.0 | 1 | {0.5 + shown / 10} | " in page
    with Image.open(runs / "kept" / "images_samples.png") as picture:  # of the best row, below those of UID
        assert picture.getpixel((10, picture.height - 10)) == 70 + 10 * shown


def test_no_other_average_stands_for_one_that_has_no_picture(results, runs, monkeypatch):
    for sampler, colour in (("ema_0.99", 70), ("ema_0.9", 80)):
        ran(runs / "runs" / "images" / "wide" / "seed=0", {4: 0.5}, sampler, colour=colour)
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    rmtree(runs / "kept/images/wide/seed=0/samples/ema_0.99")
    made(results, runs, monkeypatch)
    with Image.open(runs / "kept" / "images_samples.png") as picture:
        assert picture.getpixel((10, picture.height - 10)) == 200  # RealUID's, the next one


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_the_page_says_what_is_kept(results, place):
    cells, page = results.cells_of(place), (DOCS / "results.md").read_text()
    methods = results.methods_of(cells)
    assert results.table(cells, methods) in page
    assert results.progress(methods) in page


def test_rows_of_other_steps_and_starts_have_tables_of_their_own(results, runs, monkeypatch):
    place = runs / "runs" / "images"
    ran(
        place / "tuned" / "seed=0", {2: 1.0, 4: 0.5}, model={"generator_ckpt": f"{place}/uid/seed=0/checkpoints/x.ckpt"}
    )
    ran(place / "long" / "seed=0", {4: 1.0, 8: math.nan})
    ran(place / "long" / "seed=3", {8: 0.5})
    ran(place / "short" / "seed=0", {8: 0.5})  # there is nothing to follow
    page = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    lines = [line for line in page.splitlines() if " updates" in line or line.startswith(("| `tuned`", "| `long`"))]
    assert lines[-4:] == [
        "| FID after so many updates, by seed | seeds | 4 | 8 |",
        "| `long` | 0, 3 | 1, - | nan, 0.5 |",
        "| FID after so many updates of tuning, by seed | seeds | 2 | 4 |",
        "| `tuned` | 0 | 1 | 0.5 |",
    ]
    assert "| `short` | 0 |" not in page


def test_what_is_kept_is_enough_and_small(results, runs, monkeypatch):
    first = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    kept = [str(file.relative_to(runs / "kept" / "images")) for file in (runs / "kept" / "images").rglob("*.png")]
    assert sorted(kept) == [
        "realuid/seed=0/samples/ema_0.99/step_00000004.png",
        "teacher/samples/ema_0.9_steps_1/step_00000003.png",
        "teacher/samples/ema_0.9_steps_50/step_00000003.png",
        "uid/seed=0/samples/ema_0.99/step_00000004.png",
    ]
    assert not (runs / "kept" / "images" / "realuid" / "seed=2").exists()
    (runs / "runs").rename(runs / "gone")
    assert made(results, runs, monkeypatch) == first


def test_the_picture_shows_the_teacher_uid_and_the_best_other_generator(results, runs, monkeypatch):
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    picture = results.pil_to_tensor(results.Image.open(runs / "kept" / "images_samples.png"))
    assert picture.shape == (1, 4 * 34 + 2, 20 * 34 + 2)
    assert [int(picture[0, 34 * row + 16, 16]) for row in range(4)] == [250, 20, 100, 200]


def test_the_picture_shows_the_best_other_one_where_uid_is_the_best(results, runs, monkeypatch):
    ran(runs / "runs" / "images" / "uid" / "seed=0", {6: 0.3}, model={"alpha": 1.0, "beta": 1.0}, colour=100)
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    picture = results.pil_to_tensor(results.Image.open(runs / "kept" / "images_samples.png"))
    assert [int(picture[0, 34 * row + 16, 16]) for row in range(picture.shape[1] // 34)] == [250, 20, 100, 200]


def test_a_row_that_has_diverged_is_the_last_one(results, runs, monkeypatch):
    ran(runs / "runs" / "images" / "diverged" / "seed=0", {4: math.nan}, model={"alpha": 1.0}, colour=60)
    page = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    assert [line.split()[1] for line in page.splitlines() if line.startswith("| `")][:3] == [
        "`realuid`",
        "`uid`",
        "`diverged`",
    ]
    picture = results.pil_to_tensor(results.Image.open(runs / "kept" / "images_samples.png"))
    assert int(picture[0, 34 * 3 + 16, 16]) == 200


def test_runs_that_are_not_kept_yet_are_told(results, runs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["results.py", "--folder", str(runs / "runs"), "--page", str(runs / "page.md")])
    with pytest.raises(SystemExit, match=r"has no flops.json: name what `make results` keeps"):
        results.main()


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 16, 60])
def test_a_grid_of_any_number_of_images_is_taken_apart(results, tmp_path, count, short):
    """Also where evaluation made fewer samples than the grid would hold."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    write_png(draw(images / 127.5 - 1), tmp_path / "grid.png")
    data = {"eval_samples": count if short else 100}
    config = {"grid": {"count": count + 20 * short}, "data": {"init_args": data}}
    cell = results.Cell("uid", Run("uid", tmp_path, config, [], 0), (), {})
    assert torch.equal(results.tiles(tmp_path / "grid.png", cell), images)


@pytest.mark.parametrize("content", [b"no picture", b"", b"cut"])
def test_a_damaged_grid_is_named(results, runs, monkeypatch, content):
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    grid = runs / "kept/images/uid/seed=0/samples/ema_0.99/step_00000004.png"
    grid.write_bytes(grid.read_bytes()[:200] if content == b"cut" else content)
    with pytest.raises(SystemExit, match=f"{grid}: no picture, or a damaged one"):
        made(results, runs, monkeypatch)


@pytest.mark.parametrize("side", [1, 138, 139, 400])
def test_a_grid_of_other_pictures_is_named(results, runs, monkeypatch, side):
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    grid = runs / "kept/images/uid/seed=0/samples/ema_0.99/step_00000004.png"
    write_png(torch.zeros(3, side, side, dtype=torch.uint8), grid)
    with pytest.raises(SystemExit, match=f"error: .*{grid}"):
        made(results, runs, monkeypatch)


def test_options_tell_where_a_generator_begins(results, tmp_path):
    path = {"class_path": "FlowMatchingPath", "init_args": {"levels": [0.15]}}
    run = Run("uid", tmp_path, {"model": {"init_args": {"alpha": 1.0, "path": path}}}, [], 0)
    assert results.options_of(results.Cell("uid", run, (), {})) == "alpha 1.0, levels [0.15]"


def test_a_tuned_row_counts_what_its_generator_had_cost(results, runs, monkeypatch):
    begun = {"alpha": 0.5, "generator_ckpt": "runs/images/uid/seed=0/checkpoints/last.ckpt"}
    again = {"alpha": 0.6, "generator_ckpt": "runs/images/tuned/seed=0/checkpoints/last.ckpt"}
    ran(runs / "runs" / "images" / "tuned" / "seed=0", {2: 0.5}, model=begun)
    ran(runs / "runs" / "images" / "again" / "seed=0", {1: 0.4}, model=again)
    page = made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    assert "| `tuned` | alpha 0.5, from `uid`, seed 0 | 1 | 0.5 | 0.9 | 0.8 | 0.7 | 4 + 2 | 0.02 | 6e+09 |" in page
    assert "| `again` | alpha 0.6, from `tuned`, seed 0 | 1 | 0.4 | 0.9 | 0.8 | 0.7 | 6 + 1 | 0.03 | 7e+09 |" in page


def spoil(folder, name):
    file = folder / "figures.jsonl"
    if name == "times":
        (folder / "fits.json").unlink()
    elif name == "later":
        ran(folder, {6: 0.3})
    elif name == "other":
        file.write_text(file.read_text().replace("ema_0.99", "ema_0.9"))
    elif name == "elsewhere":
        start = {"generator_ckpt": f"{folder.parents[1]}/uid/seed=0/checkpoints/last.ckpt"}
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": start}}))
    elif name == "behind":
        ran(folder, {6: 0.3}, "ema_0.9")
    else:
        file.write_text({"cut": f"{file.read_text()}{{", "lost": file.read_text().replace("recall", "call")}[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("later", "seeds of realuid end at different steps, 0 at 4, 1 at 6: go on with those"),
        ("other", "seeds of realuid evaluate different averages first, 0 ema_0.99, 1 ema_0.9: one row"),
        ("behind", "figures of ema_0.99, which a table shows, end at 4 of 6"),
        ("elsewhere", "seeds of realuid begin at different generators, 0 at the teacher, 1 at uid/seed=0: give each"),
        ("cut", "its figures have lines that cannot be read"),
        ("lost", "its figures lack recall"),
        ("times", "has no fits.json"),
    ],
)
def test_runs_of_which_no_table_can_tell_are_named(name, message, results, runs, monkeypatch):
    spoil(runs / "runs" / "images" / "realuid" / "seed=1", name)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        made(results, runs, monkeypatch, "--keep", str(runs / "runs"))


def test_what_a_run_begins_at_must_be_kept(results, runs, monkeypatch):
    begun = {"generator_ckpt": "runs/images/gone/seed=0/checkpoints/last.ckpt"}
    ran(runs / "runs" / "images" / "tuned" / "seed=0", {2: 0.5}, model=begun)
    with pytest.raises(SystemExit, match="begins at gone/seed=0, which is not kept"):
        made(results, runs, monkeypatch, "--keep", str(runs / "runs"))


def test_runs_of_no_sweep_are_no_rows(results, runs, monkeypatch):
    ran(runs / "runs" / "images" / "distil", {2: 0.1})
    assert "`distil`" not in made(results, runs, monkeypatch, "--keep", str(runs / "runs"))


def test_no_update_is_counted_to_an_end_that_has_none(results, runs, monkeypatch):
    ran(runs / "runs" / "images" / "uid" / "seed=0", {4: math.nan})
    assert "reaches the distance" not in made(results, runs, monkeypatch, "--keep", str(runs / "runs"))


def teacher(place, shift):
    """Leave the checkpoint of a teacher whose average is farther from its weights by so much."""
    network = MLP([1, 8, 8], width=32)
    (place / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"ema": [0.9]}}}))
    (place / "checkpoints").mkdir(exist_ok=True)
    content = checkpoint(TeacherModule(network, ema=[0.9]))
    for name in [name for name in content["state_dict"] if name.startswith("ema.")]:
        content["state_dict"][name].add_(shift)
    torch.save(content, place / "checkpoints" / "last.ckpt")
    return network


def test_the_average_of_the_teacher_is_kept_for_its_students(results, runs, monkeypatch):
    network = teacher(runs / "runs" / "images" / "teacher", 1.0)
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    kept, path = read_teacher(runs / "kept" / "images" / "teacher.safetensors")
    assert isinstance(path, FlowMatchingPath)
    for mine, theirs in zip(kept.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs + 1, atol=0, rtol=1e-3)
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))  # once more the same one


def test_another_teacher_does_not_take_the_place_of_the_one_at_which_rows_began(results, runs, monkeypatch):
    teacher(runs / "runs" / "images" / "teacher", 1.0)
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    before = (runs / "kept" / "images" / "teacher.safetensors").read_bytes()
    teacher(runs / "runs" / "images" / "teacher", 2.0)
    with pytest.raises(SystemExit, match=r"is another teacher than .*, at which realuid, uid began; move"):
        made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    assert (runs / "kept" / "images" / "teacher.safetensors").read_bytes() == before


def test_protocols_are_not_mixed(results, runs, monkeypatch):
    other = {"step": 4, "sampler": "raw", "figures": {"fid": 1.0}, "protocol": {"features": "g"}}
    with (runs / "runs" / "images" / "uid" / "seed=0" / "figures.jsonl").open("a") as file:
        file.write(json.dumps(other) + "\n")
    with pytest.raises(SystemExit, match="mixes figures of 2 protocols"):
        made(results, runs, monkeypatch, "--keep", str(runs / "runs"))


def test_a_page_without_the_marks_is_told(results, runs, monkeypatch):
    words = ["--keep", str(runs / "runs"), "--folder", str(runs / "kept"), "--page", str(runs / "none.md")]
    monkeypatch.setattr(sys, "argv", ["results.py", *words])
    with pytest.raises(SystemExit, match="must have the lines"):
        results.main()


@pytest.mark.parametrize(
    ("curve", "goal", "step"),
    [({1: 4.0, 3: 1.0}, 2.0, 2.0), ({1: 4.0}, 2.0, None), ({5: 1.0}, 2.0, 5.0), ({1: 4.0, 2: 2.0}, 2.0, 2.0)],
)
def test_a_goal_is_reached_between_steps(results, curve, goal, step):
    assert results.reach(curve, goal) == (None if step is None else pytest.approx(step))


def test_enlarged_images_have_no_detail_and_a_chessboard_has_all(detail):
    coarse = torch.rand(3, 2, 4, 4).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 1.0
    assert detail.detail(coarse).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    assert detail.detail(board.expand(5, 2, 8, 8)).tolist() == [0.25] * 5
    assert detail.detail(board[:7, :5].expand(5, 2, 7, 5)).tolist() == [0.25] * 5


def test_details_are_of_pixels_as_they_were_before_they_were_enlarged_to_be_seen(
    detail, results, runs, monkeypatch, capsys
):
    """The grids of `ran` hold 32 x 32 pixels: here those of 16 x 16."""
    made(results, runs, monkeypatch, "--keep", str(runs / "runs"))
    real = torch.rand(100, 3, 16, 16)
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255).byte()
    large = board.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1).expand(64, 3, 32, 32)
    place = runs / "kept" / "images"
    write_png(make_grid(large, nrow=8, padding=2), place / "uid/seed=0/samples/ema_0.99/step_00000004.png")
    monkeypatch.setattr(detail, "reference", lambda config: real)
    monkeypatch.setattr(sys, "argv", ["detail.py", str(place)])
    detail.main()
    printed = capsys.readouterr().out.splitlines()
    (own,) = [line for line in printed if line.startswith("| real | 100 | ")]
    assert f" {1e3 * detail.detail(real).mean():.3g} ± " in own
    assert own.endswith(" | 0 |")
    assert any(line.startswith("| `uid`, ema_0.99 | 64 | 250 ± 0 | ") for line in printed)
    assert any(line.startswith("| `teacher`, ema_0.9_steps_50 | 64 | 0 ± 0 | ") for line in printed)


def test_a_single_image_has_no_spread(detail):
    assert detail.row("uid", torch.tensor([0.25]), torch.tensor([0.25, 0.25])) == "| uid | 1 | 250 | 0 |"


def test_real_images_are_those_that_figures_compare_with(detail, tmp_path):
    config = {
        "trainer": {"max_steps": 1},
        "model": {"class_path": "TeacherModule", "init_args": {"network": "MLP"}},
        "data": {"source": "Digits", "batch_size": 2, "eval_samples": 4},
        "features": "RawFeatures",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    images = detail.reference(tmp_path / "config.yaml")
    assert images.shape == (1797, 1, 8, 8)
    assert 0 == images.min() < images.max() <= 1
