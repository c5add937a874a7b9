"""Every mistake gets one message that says what and how to mend it, no traceback, and exit code 2, before training."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bad_input import CASES, FILES


@pytest.fixture(scope="module")
def workshop(demo):
    """The demo's folder, with all kinds of wrong files beside the runs."""
    whole = (demo / "runs" / "demo" / "teacher" / "checkpoints" / "last.ckpt").read_bytes()
    (demo / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    lost = torch.load(demo / "runs" / "demo" / "teacher" / "checkpoints" / "last.ckpt", weights_only=True)
    lost["state_dict"] = {key: torch.full_like(value, torch.nan) for key, value in lost["state_dict"].items()}
    torch.save(lost, demo / "diverged.ckpt")
    (demo / "empty.ckpt").touch()
    (demo / "text.ckpt").write_text("hello\n")
    (demo / "inception.pth").write_text("hello\n")
    (demo / "data.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name, text in FILES.items():
        (demo / name).write_text(text)
    (demo / "home").mkdir()
    torch.save({"epoch": 3, "weights": [1.0]}, demo / "foreign.pt")
    torch.save({"model": Path("x")}, demo / "code.pt")
    torch.save({"weight": torch.zeros(3)}, demo / "state.pt")
    (demo / "hollow").mkdir()
    (demo / "damaged" / "checkpoints").mkdir(parents=True)
    (demo / "damaged" / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 3])
    (demo / "drawn").mkdir()
    (demo / "drawn" / "figure.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    (demo / "broken").mkdir()
    for name in ("bad", "worse"):
        (demo / "broken" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return demo


@pytest.fixture(scope="module")
def tally(request):
    """Exit codes and lengths of messages, told when all are known."""
    found = []
    yield found
    if found:
        codes, longest = dict(Counter(code for code, _ in found)), max(length for _, length in found)
        with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{len(found)} bad inputs, exit codes {codes}, longest message {longest} characters")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_bad_input(case, workshop, realuid, monkeypatch, tmp_path, tally):
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("HOME", str(workshop / "home"))
    before = files(workshop / "runs")
    words, expected = CASES[case]
    while "=" in words[0]:  # as in a shell
        monkeypatch.setenv(*words[0].split("="))
        words = words[1:]
    if words[0] in ("fit", "predict") and not any("default_root_dir" in word for word in words):
        words = (*words, f"--trainer.default_root_dir={tmp_path / 'run'}")
    code, written = realuid(*words)
    faults = [line for line in written.splitlines() if line.startswith("error: ")]
    tally.append((code, len("\n".join(faults))))
    assert code == 2, written
    for word in expected:
        assert word in "\n".join(faults), written
    assert "Traceback" not in written
    assert len(faults) <= 6, written  # no wall
    assert max(map(len, faults)) <= 400, written
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert files(workshop / "runs") == before  # nothing of an earlier run is touched


def files(folder):
    """Contents of all files of runs, but for TensorBoard's, which every start may add."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "tfevents" not in file.name}
