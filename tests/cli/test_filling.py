"""What a config leaves open follows from data, path and its own name; what it says stays, and is refused if wrong."""

import pytest
from helpers import fit, mlp

from realuid_lightning.cli.filling import run_folder
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.modules import TeacherModule

TEACHER = "model: {class_path: TeacherModule, init_args: {network: %s%s}}\ndata: {source: %s%s}\n"


@pytest.fixture
def shown(resolved, tmp_path, monkeypatch):
    """Return network and data of a teacher's resolved config."""
    monkeypatch.chdir(tmp_path)

    def call(*words, network="MLP", source="Digits", path="", data=""):
        (tmp_path / "it.yaml").write_text(TEACHER % (network, path, source, data))
        config = resolved("--config", "it.yaml", *words)
        return config["model"]["init_args"]["network"], config["data"]["init_args"], config

    return call


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        ("Digits", [1, 8, 8]),
        ("{class_path: Gaussian, init_args: {mean: [0, 1], std: [1, 1]}}", [2]),
        ("{class_path: CelebA, init_args: {size: 48}}", [3, 48, 48]),  # which is not there, nor looked for
    ],
)
def test_samples_have_the_shape_of_the_data(source, shape, shown):
    network, _, config = shown("--features=RawFeatures", source=source)
    assert network["init_args"]["shape"] == shape
    assert config["features"]["init_args"]["shape"] == shape


@pytest.mark.parametrize("name", ["UNet", "SongUNet", "DhariwalUNet", "EDM2UNet", "DiT"])
def test_networks_of_images_have_their_size_and_channels(name, shown):
    network, _, _ = shown(network=name, source="{class_path: CelebA, init_args: {size: 48}}")
    assert network["class_path"] == f"realuid_lightning.networks.{name}"
    options = network["init_args"]
    assert (options["image_size"], options["in_channels"], options["condition_channels"]) == (48, 3, 0)
    assert options["num_classes"] is None


@pytest.mark.parametrize(
    ("path", "channels"),
    [
        ("", 0),
        (", path: BridgePath", 3),
        (", path: {class_path: BridgePath, init_args: {latent: true}}", 6),
        (", path: {class_path: InterpolantPath, init_args: {translates: true}}", 3),
    ],
)
def test_the_network_takes_what_the_path_shows_it(path, channels, shown):
    network, _, _ = shown(network="UNet", source="CIFAR10", path=path)
    assert network["init_args"]["condition_channels"] == channels


@pytest.mark.parametrize(
    ("network", "data", "classes", "labels"),
    [
        ("DiT", "", None, False),
        ("DiT", ", labels: true", 10, True),
        ("{class_path: DiT, init_args: {num_classes: 1000}}", "", 1000, True),
        ("{class_path: DiT, init_args: {num_classes: 1000}}", ", labels: true", 1000, True),
        ("{class_path: DiT, init_args: {num_classes: 1000}}", ", labels: false", 1000, False),
    ],
)
def test_classes_follow_from_labels_and_labels_from_classes(network, data, classes, labels, shown):
    network, data, _ = shown(network=network, source="CIFAR10", data=data)
    assert (network["init_args"]["num_classes"], data["labels"]) == (classes, labels)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.network.shape=[1,4,4]"], "(1, 4, 4), but the data has (1, 8, 8)"),
        (["--model.network.condition_channels=2"], "shows the network 0 further channels"),
        (["--model.network.num_classes=10", "--data.labels=false"], "one of 10 classes, but data.labels is false"),
        (["--model.network.num_classes=3", "--data.labels=true"], "has 3 classes, but the data has 10"),
        (["--features=RawFeatures", "--features.shape=[2]"], "raw values (2)"),
    ],
)
def test_what_is_given_stays_and_is_refused_where_it_contradicts(words, told, shown, realuid):
    _, _, config = shown(*words)
    options = {f"--{key}={value}" for key, value in flat(config)}
    assert {word.replace(" ", "") for word in words if "RawFeatures" not in word} <= options
    code, written = realuid("plan", "--config", "it.yaml", "--trainer.max_steps=1", "--features=RawFeatures", *words)
    assert code == 2
    assert told in written


def flat(options, prefix=""):
    """Names and values of resolved options, as words of the command line have them."""
    for name, value in options.items():
        key = prefix if name == "init_args" else f"{prefix}.{name}".strip(".")
        if isinstance(value, dict):
            yield from flat(value, key)
        else:
            yield key, str(value).replace(" ", "").lower()


OWN = """
from torch import nn
from realuid_lightning.data import MatchingDataModule, Digits
class Net(nn.Module):
    def __init__(self, shape: list[int], condition_channels: int = 0, width: int = 3) -> None:
        super().__init__()
        self.shape, self.condition_channels, self.layer = shape, condition_channels, nn.Linear(width, width)
class Wrapped(nn.Module):
    def __init__(self, network: nn.Module, in_channels: int = 7) -> None:
        super().__init__()
        self.network = network
class Features(nn.Module):
    num_features = 4
    def __init__(self, in_channels: int = 5, num_classes: int = 1000) -> None:
        super().__init__()
class Data(MatchingDataModule):
    def __init__(self) -> None:
        super().__init__(Digits())
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Classes of the user's own, in a module ``own_parts`` of this test alone."""
    name = f"own_parts_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_networks_of_the_users_own_and_wrapped_ones(own, shown):
    wrapped = f"{{class_path: {own}.Wrapped, init_args: {{network: {own}.Net}}}}"
    network, _, _ = shown(network=wrapped, path=", path: BridgePath")
    assert network["init_args"]["in_channels"] == 1
    assert network["init_args"]["network"]["init_args"] == {"shape": [1, 8, 8], "condition_channels": 1, "width": 3}


def test_what_is_no_network_keeps_its_own_defaults(own, shown):
    _, _, config = shown(f"--features={own}.Features")
    assert config["features"]["init_args"] == {"in_channels": 5, "num_classes": 1000}


def test_data_that_do_not_tell_are_asked_for_the_shape(own, resolved, realuid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.yaml").write_text(
        f"model: {{class_path: TeacherModule, init_args: {{network: MLP}}}}\ndata: {own}.Data\n"
    )
    code, written = realuid("fit", "--config", "it.yaml")
    assert code == 2
    assert "MLP needs shape" in written
    resolved("--config", "it.yaml", "--model.network.shape=[1,8,8]")


def test_a_faulty_source_is_told_as_what_it_is(shown, realuid):
    shown()
    code, written = realuid(
        "fit", "--config", "it.yaml", "--data.source=ImageFolder", "--data.source.root=no", "--data.source.size=0"
    )
    assert code == 2
    assert "size must be at least 1 pixel, got 0" in written
    assert "needs shape" not in written


@pytest.mark.parametrize(
    ("configs", "folder"),
    [
        (None, "runs/run"),
        (["configs/cifar_uncond.yaml", "configs/fast.yaml"], "runs/cifar_uncond"),
        (["../configs/demo/teacher.yaml"], "runs/demo/teacher"),
        (["/home/me/configs/configs/frameworks/vp/moons/distil.yaml"], "runs/frameworks/vp/moons/distil"),
        (["/elsewhere/mine.yaml"], "runs/mine"),
        (["mine.test.yml"], "runs/mine.test"),
    ],
)
def test_the_run_folder_is_that_of_the_first_config(configs, folder):
    assert run_folder(configs) == folder


def test_a_short_name_is_ours_and_others_have_their_full_path(shown):
    import torchvision.ops  # noqa: F401 - it has an MLP, too

    assert shown(network="MLP")[0]["class_path"] == "realuid_lightning.networks.MLP"
    assert shown("--model.network=MLP", network="UNet")[0]["class_path"] == "realuid_lightning.networks.MLP"
    other = "{class_path: torchvision.ops.MLP, init_args: {hidden_channels: [4]}}"
    assert shown(network=other)[0]["class_path"] == "torchvision.ops.MLP"


def test_in_python_labels_follow_the_network(tmp_path):
    for classes in (None, 10):
        data = MatchingDataModule(Digits(), batch_size=4)
        assert not data.labels
        fit(TeacherModule(mlp(num_classes=classes)), data, tmp_path, 1)
        assert data.labels == (classes is not None)
