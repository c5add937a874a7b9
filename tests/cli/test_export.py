"""``realuid export``: formats that others open, each with the samples of the generator, and a card."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import checkpoint, figure, mlp
from safetensors import safe_open

from realuid_lightning import load_generator
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.cli.card import objective_of
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.paths import BridgePath


def saved(file, network=None, **options):
    module = RealUIDModule(mlp(num_classes=4) if network is None else network, None, **options)
    module.start()
    AtomicCheckpointIO().save_checkpoint(checkpoint(module), file)
    return file


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A conditional generator of two steps."""
    return saved(tmp_path_factory.mktemp("generator") / "last.ckpt", sampling_steps=2, ema=[0.5])


def given(size):
    rng = torch.Generator().manual_seed(1)
    shapes = {"z": (size, 1, 8, 8), "renoise": (size, 1, 1, 8, 8)}
    return {"y": torch.arange(size) % 4, **{name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}}


def exported(realuid, *words):
    code, written = realuid("export", *words)
    assert code == 0, written
    return written


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bf16", 0.1)])
def test_torch_opens_it_without_this_package(realuid, generator, tmp_path, dtype, atol):
    exported(realuid, generator, tmp_path / "made.pt2", f"--dtype={dtype}", "--ema=0.5")
    kept = {"realuid_lightning.json": ""}
    program = torch.export.load(tmp_path / "made.pt2", extra_files=kept)
    assert json.loads(kept["realuid_lightning.json"])["ema"] == [0.5]
    for size in (1, 7):
        expected = load_generator(generator, ema=0.5)(**given(size))
        found = program.module()(**given(size))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    weights = [value for value in program.state_dict.values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32 if dtype == "float32" else torch.bfloat16}


def test_onnxruntime_makes_the_same_samples_in_batches_of_any_size(realuid, generator, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported(realuid, generator, tmp_path / "made.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "made.onnx"))
    assert [each.name for each in session.get_outputs()] == ["samples"]
    for size in (1, 7):
        (found,) = session.run(None, {name: part.numpy() for name, part in given(size).items()})
        np.testing.assert_allclose(found, load_generator(generator)(**given(size)), rtol=0, atol=1e-4)
    record = session.get_modelmeta().custom_metadata_map["realuid_lightning"]
    assert json.loads(record)["sampling_steps"] == 2


def test_safetensors_of_half_the_size(realuid, generator, tmp_path):
    for dtype in ("float32", "bf16"):
        exported(realuid, generator, tmp_path / f"{dtype}.safetensors", f"--dtype={dtype}")
    whole, half = ((tmp_path / f"{dtype}.safetensors").stat().st_size for dtype in ("float32", "bf16"))
    assert half < 0.6 * whole
    with safe_open(tmp_path / "bf16.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    whole, half = (load_generator(tmp_path / f"{dtype}.safetensors")(**given(3)) for dtype in ("float32", "bf16"))
    torch.testing.assert_close(half, whole, rtol=0, atol=0.1)
    assert half.dtype == torch.float32


def test_a_translating_generator_takes_its_sources(realuid, tmp_path):
    path = BridgePath()
    file = saved(tmp_path / "bridge.ckpt", mlp(condition_channels=path.conditions), path=path)
    exported(realuid, file, tmp_path / "made.pt2")
    z, x0 = torch.randn(2, 3, 1, 8, 8)
    found = torch.export.load(tmp_path / "made.pt2").module()(z=z, x0=x0)
    torch.testing.assert_close(found, load_generator(file)(z, None, x0))


def front(text):
    return yaml.safe_load(re.match(r"---\n(.*?)---\n", text, flags=re.DOTALL)[1])


CONFIG = """
model:
  class_path: realuid_lightning.modules.RealUIDModule
  init_args: {alpha: 0.98, beta: 0.96, guidance: null, teacher_ckpt: runs/teacher/checkpoints/last.ckpt}
trainer: {max_steps: 4, logger: {init_args: {api_key: abc}}}
"""


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has measured its weights at two steps."""
    folder = tmp_path / "runs" / "digits"
    (folder / "checkpoints").mkdir(parents=True)
    module = RealUIDModule(mlp(), None, ema=[0.99])
    module.start()
    content = {**checkpoint(module), "global_step": 4}
    AtomicCheckpointIO().save_checkpoint(content, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(CONFIG)
    rows = [figure(step, name, fid=step + len(name) / 8) for step in (2, 4) for name in ("raw", "ema_0.99")]
    rows[-1] |= {"floor": {"fid": 0.2}, "gaussian": {"fid": 9.5}}
    (folder / "figures.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_a_card_tells_the_arguments_of_an_objective_and_no_shorthand_that_has_no_part():
    corrected = {"class_path": "a.Corrected", "init_args": {"rho": 0.5, "alpha": 0.9, "divergence": None}}
    gan = {"class_path": "a.GAN", "init_args": {"generator_weight": 0.3}}
    both = {"class_path": "a.Adversarial", "init_args": {"objective": corrected, "gan": gan}}
    model = {"objective": both, "alpha": 1.0, "beta": 1.0, "guidance": 2.0}
    expected = "Adversarial (objective Corrected (rho 0.5, alpha 0.9), gan GAN (generator_weight 0.3))"
    assert objective_of(model) == f"{expected}, guidance 2.0"
    assert objective_of({"alpha": 1.0, "beta": 1.0, "gan": {"class_path": "a.GAN"}}) == "alpha 1.0, beta 1.0, gan GAN"
    path = {
        "class_path": "a.FlowMatchingPath",
        "init_args": {"weighting": {"class_path": "a.NoiseWeight", "init_args": {"power": 2.0}}},
    }
    assert objective_of({"alpha": 1.0, "path": path}) == "alpha 1.0, weighting NoiseWeight (power 2.0)"


def test_a_card_tells_where_it_comes_from_and_how_good_it_is(run, realuid, tmp_path, monkeypatch):
    words = ["--card", "--license=mit", "--teacher_license=cc-by-nc-4.0"]
    exported(realuid, run / "checkpoints/last.ckpt", tmp_path / "digits.safetensors", "--ema=0.99", *words)
    text = (tmp_path / "README.md").read_text()
    head = front(text)
    assert (head["library_name"], head["license"]) == ("realuid_lightning", "mit")
    assert head["teacher"] == {"weights": "runs/teacher/checkpoints/last.ckpt", "license": "cc-by-nc-4.0"}
    assert [line for line in text.splitlines() if line.startswith("| fid |")] == ["| fid | 5 | 0.2 | 9.5 |"]
    assert "Protocol: metrics m, features f," in text
    assert "| objective | alpha 0.98, beta 0.96 |" in text
    assert "| weights | ema_0.99, float32 |" in text
    assert "| generator updates | 4 |" in text
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[1])
    assert config["trainer"] == {"max_steps": 4, "logger": {"init_args": {"api_key": "(hidden)"}}}
    (code,) = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    known = {"z": torch.randn(2, 1, 8, 8)}
    exec(code, known)
    assert known["samples"].shape == (2, 1, 8, 8)
    exported(realuid, run / "checkpoints/last.ckpt", tmp_path / "digits.safetensors", "--card")
    again = (tmp_path / "README.md").read_text()
    assert (front(again)["license"], "| weights | raw, float32 |" in again) == ("unknown", True)
    assert "| fid | 4.375 |  |  |" in again


def test_a_card_without_a_run_says_what_it_does_not_know(realuid, generator, tmp_path):
    exported(realuid, generator, tmp_path / "made.safetensors", "--card")
    text = (tmp_path / "README.md").read_text()
    assert "Not measured." in text
    assert "| generator updates | not told |" in text
    assert 'load_generator("made.safetensors")(z, y)' in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["made.bin"],
            "made.bin: expected a name that ends as a format does, safetensors (.safetensors), torch",
        ),
        (["made.onnx", "--format=torch"], "made.onnx: such an export is a .pt2 file"),
        (["made.bin", "--format=tensorflow"], "format"),
        (["made.onnx", "--dtype=bf16"], "onnxruntime has no bfloat16 for most operators"),
        (["made.pt2", "--ema=0.9"], "no average of decay 0.9; available: 0.5"),
        (["made.pt2", "--dtype=int8"], "dtype"),
        (["made.pt2", "--card"], "README.md: there already, and no card of ours"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(realuid, generator, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# Mine\n")
    code, written = realuid("export", generator, *words)
    assert code == 2, written
    assert message in written
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["README.md"]
    assert Path("README.md").read_text() == "# Mine\n"


def test_a_program_that_differs_is_not_written(realuid, generator, tmp_path, monkeypatch):
    class Other(torch.export.ExportedProgram):
        """A program of another generator."""

        def module(self):
            return lambda **given: load_generator(generator)(**given) + 0.01

    def export(*arguments, **options):
        return Other.__new__(Other)

    monkeypatch.setattr(torch.export, "export", export)
    code, written = realuid("export", generator, tmp_path / "made.pt2")
    assert code == 2
    assert "not written, for its samples differ from the generator's by" in written
    assert not list(tmp_path.glob("*.pt2"))
