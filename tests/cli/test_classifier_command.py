"""``realuid classifier``, as a user types it."""

from pathlib import Path

import pytest
import torch
from test_configs import CLASSIFIERS, CONFIGS, images

from realuid_lightning.data import Digits, to_floats
from realuid_lightning.metrics.classifiers import ARCHITECTURES, ClassifierNetwork, load_classifier

DIGITS = CONFIGS / "features" / "digits.yaml"


def test_it_trains_measures_and_writes(realuid, tmp_path):
    file = tmp_path / "new" / "digits.safetensors"
    words = ["classifier", "--config", DIGITS, "--steps=12", f"--file={file}"]
    code, written = realuid(*words)
    assert code == 0, written
    network = ClassifierNetwork("digits").eval()
    about = load_classifier(network, file)
    assert about["command"] == f"realuid {' '.join(map(str, words))}"
    assert about["trained_on"].startswith("scikit-learn's digits of even index (Digits-899-1x8x8-")
    assert about["held_out"].startswith("Digits-898-1x8x8-")
    odd = Digits(part="odd")
    x, y = odd.get(torch.arange(len(odd)))
    with torch.no_grad():
        accuracy = (network(to_floats(x)).argmax(1) == y).float().mean()
    assert about["accuracy"] == f"{accuracy:.4f}"
    assert f"{file}: written; accuracy {about['accuracy']} on 898 held-out images" in written
    state = network.state_dict()
    realuid(*words)
    again = ClassifierNetwork("digits")
    load_classifier(again, file)
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("config", CLASSIFIERS, ids=str)
def test_every_config_trains(config, realuid, tmp_path):
    channels, size, _ = ARCHITECTURES[config.stem].shape
    folder = images(tmp_path / "images", size)
    words = ["--config", CONFIGS / config, "--steps=1", "--data.batch_size=4", f"--file={tmp_path / 'new.safetensors'}"]
    for part in ("source", "reference"):
        words += [f"--data.{part}=ImageFolder", f"--data.{part}.root={folder}"]
        words += [f"--data.{part}.size={size}", f"--data.{part}.channels={channels}"]
    code, written = realuid("classifier", *words)
    assert code == 0, written
    load_classifier(ClassifierNetwork(config.stem), tmp_path / "new.safetensors")
    assert f"file: realuid_lightning/metrics/weights/{config.stem}.safetensors" in (CONFIGS / config).read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.name=letters"], "letters"),
        (["--steps=0"], "steps"),
        (["--data.reference=null"], "data.reference must hold other images than data.source"),
        (["--model.name=fashion_mnist"], "fashion_mnist is for images of shape (1, 28, 28) of 10 classes"),
        (["--data.labels=false"], "no classes"),
        (["--model.lr=-1"], "lr must be"),
    ],
)
def test_mistakes_are_told(words, told, realuid, tmp_path):
    code, written = realuid("classifier", "--config", DIGITS, f"--file={tmp_path / 'new.safetensors'}", *words)
    assert code == 2
    assert told in written
    assert "Traceback" not in written
    assert not list(Path(tmp_path).glob("*.safetensors"))
