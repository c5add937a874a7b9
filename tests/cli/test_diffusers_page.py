"""What docs/teachers_diffusers.md and its example say is done, at a small size."""

import re
import runpy
from pathlib import Path

import lightning
import pytest
import torch
from small_diffusers import UNET, diffusers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teachers_diffusers.md").read_text()
# diffusers' Euler hands tensors to numpy in a way that newer numpy calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Short(lightning.Trainer):
    def __init__(self, **options):
        small = {"max_steps": 1, "val_check_interval": 1, "limit_val_batches": 1, "enable_model_summary": False}
        super().__init__(**{**options, **small})


def test_the_page_runs_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(lightning, "Trainer", Short)
    monkeypatch.chdir(tmp_path)
    unet = diffusers.UNet2DModel(**UNET, num_class_embeds=10)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained("teacher")
    known = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block.replace("batch_size=128", "batch_size=4").replace("eval_samples=1797", "eval_samples=8"), known)
    assert [image.size for image in known["images"]] == [(8, 8)] * 4


def test_the_example_goes_from_their_training_to_their_pipeline(tmp_path, monkeypatch):
    monkeypatch.setattr(lightning, "Trainer", Short)
    torch.manual_seed(0)
    main = runpy.run_path(str(ROOT / "examples" / "diffusers_digits.py"))["main"]
    for images in main(tmp_path, teacher_steps=2, student_steps=1, measured=8, many=2):
        assert images.shape == (20, 1, 8, 8)
        assert 0 <= images.min() < images.max() <= 1
