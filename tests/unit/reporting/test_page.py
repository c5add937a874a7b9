"""The page holds what runs have left, whatever they are called and whatever is missing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from realuid_lightning.reporting import read_runs, render
from realuid_lightning.reporting.pictures import find_pictures

EVIL = "<script>alert(1)<\\script>\"'&{{ 7*7 }}"


def run(folder, steps=(1, 2), samplers=("raw",), pictures=True, **changes):
    """A run folder as a training leaves it; the pictures of a sampler are of one grey a step."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            **{"step": step, "sampler": name, "figures": {"fid": 1.0 / step}, "better": {"fid": "min"}},
            **{"floor": {"fid": 0.1}, "gaussian": {"fid": 0.3}, "protocol": {"features": "f", "seed": 0}, **changes},
        }
        for step in steps
        for name in samplers
    ]
    (folder / "figures.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name in samplers if pictures else ():
        draw(folder / "samples" / name, steps)
    return folder


def draw(folder, steps, side=4):
    folder.mkdir(parents=True)
    for step in steps:
        Image.fromarray(np.full((side, side), step % 256, dtype=np.uint8)).save(folder / f"step_{step:08d}.png")


class Tags(HTMLParser):
    """All tags with their attributes, and the visible text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.inside = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.inside = tag

    def handle_data(self, data):
        self.text += data if self.inside not in ("script", "style") else ""

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page(*folders):
    return Tags(render(read_runs(folders)))


def test_it_asks_no_network_for_anything(tmp_path):
    text = render(read_runs([run(tmp_path / "run")]))
    assert not re.findall(r"https?://|@import|url\(", text)
    assert all(image["src"].startswith("data:image/png;base64,") for image in Tags(text).of("img"))
    (policy,) = [meta["content"] for meta in Tags(text).of("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_are_text_whatever_they_are(tmp_path):
    folder = run(tmp_path / EVIL, samplers=(EVIL,), pictures=False, protocol={"features": EVIL, EVIL: EVIL})
    draw(folder / "samples" / EVIL, (1, 2))
    (folder / "config.yaml").write_text(f"name: {EVIL}\napi_key: sesame\n")
    (folder / "fits.json").write_text(json.dumps([{"command": [EVIL], "versions": {EVIL: EVIL}, "to_step": EVIL}]))
    (folder / "metrics.csv").write_text(f'step,"train/{EVIL.replace(chr(34), chr(34) * 2)}"\n1,2\n2,3\n')
    (folder / "times.jsonl").write_text(json.dumps({"step": 1, "bins": [0.1, 0.2], EVIL: [1, 2]}))
    found = page(folder)
    assert len(found.of("script")) == 1
    assert not [name for _, attributes in found.found for name in attributes if name.startswith("on")]
    assert found.text.count(EVIL) > 12
    assert "sesame" not in found.text
    assert "49" not in found.text


@pytest.mark.parametrize(
    "content",
    ["", "{", "[[]]", "null", "[" * 1200, "\x00", "a: &a [*a]", "[{}]", '[{"versions": 3}]', "!!bool x", "!!int ''"],
)
def test_other_files_may_be_missing_or_broken(tmp_path, content):
    folder = run(tmp_path / "run", pictures=False)
    for name in ("config.yaml", "fits.json", "times.jsonl", "metrics.csv"):
        (folder / name).write_text(content)
    (folder / "samples" / "raw").mkdir(parents=True)
    (folder / "samples" / "raw" / "step_00000001.png").write_text("no picture")
    (folder / "samples" / "raw" / "step_00000002.png").mkdir()
    text = page(folder).text
    assert "No pictures" in text
    assert "No losses" in text


def test_floor_gaussian_and_best_are_in_the_table(tmp_path):
    for name, steps in (("a", (1, 2)), ("b", (1, 4))):
        run(tmp_path / name, steps)
    found = page(tmp_path)
    rows = [" ".join(row.split()) for row in found.text.split("held-out real data")[1].splitlines()]
    assert rows[0] == "0.1"
    (best,) = re.findall(r'<td class="best">(.*?)</td>', render(read_runs([tmp_path])))
    assert best == "0.25"
    assert [line["class"] for line in found.of("line") if "level" in line["class"]] == ["level floor", "level gaussian"]


def test_many_pictures_are_thinned_and_one_that_stays_is_there_once(tmp_path):
    folder = run(tmp_path / "run", steps=range(1, 301))
    draw(folder / "samples" / "truth", (1,))
    for step in range(2, 301):
        (folder / "samples" / "truth" / f"step_{step:08d}.png").write_bytes(
            (folder / "samples" / "truth" / "step_00000001.png").read_bytes()
        )
    assert list(find_pictures(folder)) == ["raw", "truth"]
    found = page(folder)
    (steps,) = [json.loads(box["data-steps"]) for box in found.of("div") if "data-steps" in box]
    assert (len(steps), steps[0], steps[-1]) == (40, 1, 300)
    images = found.of("img")
    assert len(images) == 41
    assert [image["alt"] for image in images if "hidden" not in image] == ["Samples of raw", "Samples of truth"]
    assert images[-1]["data-at"].split() == [str(place) for place in range(40)]


def test_a_teacher_stands_beside_its_generator_where_the_latents_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, teacher, seed in [("teacher", None, 0), ("distil", "runs/teacher/checkpoints/last.ckpt", 0)]:
        config = {"model": {"init_args": {"teacher_ckpt": teacher}}, "data": {"init_args": {"eval_seed": seed}}}
        (run(tmp_path / "runs" / name) / "config.yaml").write_text(json.dumps(config))
    words = "distil and its teacher"
    assert words in page(tmp_path / "runs" / "distil").text
    monkeypatch.chdir("/")  # found beside the run all the same
    assert words in page(tmp_path / "runs").text
    assert "teacher: raw" in page(tmp_path / "runs").text
    config["data"]["init_args"]["eval_seed"] = 1
    (tmp_path / "runs/distil/config.yaml").write_text(json.dumps(config))
    assert words not in page(tmp_path / "runs").text


def test_a_huge_run_makes_a_page_of_a_size_to_open(tmp_path):
    folder = run(tmp_path / "run", steps=range(0, 30_000, 10)[1:], samplers=("raw", "ema_0.999"), pictures=False)
    rows = "".join(f"{step},{step / 7}\n" for step in range(20_000))
    (folder / "metrics.csv").write_text(f"step,train/loss\n{rows}")
    assert len(render(read_runs([folder]))) < 500_000
