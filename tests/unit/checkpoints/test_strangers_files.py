"""Files of strangers: opening them runs nothing, and what is wrong with them is told in one message."""

import codecs
import json
import sys
import zipfile

import pytest
import torch
from helpers import checkpoint
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from realuid_lightning import load_generator
from realuid_lightning.checkpoints import (
    RECORD,
    AtomicCheckpointIO,
    DamagedCheckpointError,
    export_generator,
    find_checkpoint,
    load_weights,
    read_checkpoint,
)
from realuid_lightning.cli import main
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import MLP
from realuid_lightning.paths import CosineSchedule, FlowMatchingPath, MatchingPath
from realuid_lightning.recorded import Recorded

NETWORK = {"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [2], "width": 8, "depth": 1}}


LOOPS = {name: {} for name in ("fit_loop", "validate_loop", "test_loop", "predict_loop")}


def content(role="generator", path=None):
    network = MLP([2], width=8, depth=1)
    module = RealUIDModule(network, None, path=path) if role == "generator" else TeacherModule(network, path=path)
    trainers = {"global_step": 0, "epoch": 0, "loops": LOOPS, "pytorch-lightning_version": "2.6.0"}
    return checkpoint(module) | trainers


@pytest.fixture
def generator(tmp_path):
    """Write a generator's checkpoint, with some fields of its record replaced."""

    def write(name="generator.ckpt", **fields):
        whole = content()
        whole[RECORD] |= fields
        torch.save({**whole, RECORD: {key: value for key, value in whole[RECORD].items() if value != "gone"}}, name)
        return name

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        yield write


# ------------------------------------------------------------------------------------------------ nothing is executed


class Payload(nn.Module):
    """As the extractors of libraries are: a constructor that opens what it is told to."""

    def __init__(self, file):
        super().__init__()
        open(file, "w").close()


class RecordedPayload(Recorded, Payload):
    """A class of the caller's own, which may be built: the caller has defined it."""


def payloads(tmp_path):
    """Records that would leave a file ``sprung``, by building or importing."""
    sprung = str(tmp_path / "sprung")
    (tmp_path / "trap.py").write_text(f"open({sprung!r}, 'w').close()\nclass Net: ...\n")
    yield {"class_path": f"{__name__}.Payload", "init_args": {"file": sprung}}
    yield {"class_path": "trap.Net", "init_args": {}}
    yield {"class_path": "trap.anything.at.all", "init_args": {}}
    yield {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", sprung]}}
    yield {"class_path": "pathlib.Path.touch", "init_args": {"self": sprung}}
    yield {"class_path": "torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3", "init_args": {}}
    yield {"class_path": "realuid_lightning.networks.unet.torch.nn.Linear", "init_args": {}}


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("place", ["network", "path", "nested"])
def test_no_record_makes_a_file_run_or_import_anything(generator, tmp_path, monkeypatch, capfd, number, place):
    monkeypatch.syspath_prepend(tmp_path)
    evil = list(payloads(tmp_path))[number]
    arguments = {"network": evil} if place != "nested" else {"network": {**NETWORK, "init_args": {"shape": [evil]}}}
    file = generator(**(arguments if place != "path" else {"path": evil}))
    export = read_checkpoint(file)[RECORD]
    save_file({"weight": torch.zeros(2)}, "evil.safetensors", {RECORD: json.dumps(export)})
    for each in (file, "evil.safetensors"):
        with pytest.raises(UserError, match=r"imported here|must be a (sub)?class|cannot be imported"):
            load_generator(each)
        assert main(["export", str(each), "out.safetensors"]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    load_weights(file, role="generator")  # a start for a generator needs the weights, and builds nothing
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules
    assert not (tmp_path / "out.safetensors").exists()


def test_extractors_of_this_package_open_no_file_that_a_record_names(generator, tmp_path):
    trap = tmp_path / "trap.pth"
    torch.save(Payload(tmp_path / "before"), trap)
    (tmp_path / "before").unlink()
    arguments = {"weights": str(trap)}
    file = generator(
        network={"class_path": "realuid_lightning.metrics.inception.InceptionFeatures", "init_args": arguments}
    )
    with pytest.raises(UserError, match="weights do not fit"):
        load_generator(file)
    assert not (tmp_path / "before").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": [2], "width": 10**8},
        {"shape": [2], "width": 8, "depth": 10**9},
        {"shape": [10**9]},
        {"shape": [2], "num_classes": 10**12},
        {"shape": [10**9, 10**9]},
        {"shape": [2], "width": 2**62},
    ],
)
def test_a_small_file_cannot_ask_for_terabytes(generator, arguments):
    file = generator(network={"class_path": "realuid_lightning.networks.MLP", "init_args": arguments})
    with pytest.raises(UserError, match=r"generator.ckpt: .*MLP cannot be built"):
        load_generator(file)


def test_what_tensors_claim_by_strides_of_zero_does_not_count(generator):
    file = generator(network={"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [10**6]}})
    whole = torch.load(file, weights_only=True)
    whole["state_dict"] = {"generator.network.input.weight": torch.zeros(1).expand(256, 10**6)}
    torch.save(whole, file)
    with pytest.raises(UserError, match="outgrows the 1 weights of the file"):
        load_generator(file)


def test_weights_without_values_do_not_count(generator):
    """They claim any size, and hold nothing."""
    file = generator(network={"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [10**6]}})
    whole = torch.load(file, weights_only=True)
    whole["state_dict"] = {"generator.network.input.weight": torch.empty(256, 10**9, device="meta")}
    torch.save(whole, file)
    with pytest.raises(UserError, match="outgrows the 1 weights of the file"):
        load_generator(file)


STRANGE = {
    "empty": lambda weight: weight.to("meta"),
    "sparse": lambda weight: weight.to_sparse(),
    "complex": lambda weight: weight.to(torch.complex64),
    "quantized": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("kind", STRANGE)
def test_weights_that_are_no_plain_numbers_are_refused(generator, kind, capfd):
    file = generator()
    whole = torch.load(file, weights_only=True)
    name = "generator.network.out.2.weight"
    whole["state_dict"][name] = STRANGE[kind](whole["state_dict"][name])
    torch.save(whole, file)
    with pytest.raises(UserError, match=rf"1 of \d+ of another shape: out.2.weight {kind} \(2, 8\), expected \(2, 8\)"):
        load_generator(file)
    assert main(["export", file, "out.safetensors"]) == 2
    assert "Traceback" not in capfd.readouterr().err


class Pickled:
    """Something that a pickle calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(bytearray, 2**62), (torch.Tensor, 2**50), (codecs.encode, "x", "no such code")])
def test_what_a_pickle_may_call_and_cannot_is_told(tmp_path, call):
    torch.save({"weight": Pickled(*call)}, tmp_path / "file.pt")
    with pytest.raises(DamagedCheckpointError, match="cut off or of another format"):
        read_checkpoint(tmp_path / "file.pt")


def test_a_packed_archive_is_not_unpacked(tmp_path):
    """Torch reads it, and a megabyte may become a gigabyte."""
    torch.save({"weight": torch.zeros(10**6)}, tmp_path / "plain.pt")
    packed = zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert torch.load(tmp_path / "packed.pt", weights_only=True)["weight"].shape == (10**6,)
    with pytest.raises(DamagedCheckpointError, match=r"as torch\.save packs none"):
        read_checkpoint(tmp_path / "packed.pt")


def test_long_names_of_averages_do_not_hang(tmp_path):
    torch.save({"net_model": {}, "ema_models": {"1" * 3_000 + "x": {}}}, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"no average of decay 0\.5"):
        load_weights(tmp_path / "file.pt", role="teacher", ema=0.5)


def test_names_in_a_file_neither_steer_the_terminal_nor_fill_it(generator, capfd):
    file = generator()
    whole = torch.load(file, weights_only=True)
    whole["state_dict"]["generator.network.\x1b[2J" + "k" * 10**6] = torch.zeros(1)
    torch.save(whole, file)
    assert main(["export", file, "out.safetensors"]) == 2
    said = capfd.readouterr().err
    assert "unexpected: ?[2Jkkk" in said
    assert len(said) < 1000


def test_what_a_record_says_beyond_its_fields_is_left_out(generator):
    export_generator(generator(more=torch.zeros(2)), "out.safetensors")
    with safe_open("out.safetensors", "pt") as file:
        record = json.loads(file.metadata()[RECORD])
    assert set(record) == {"format", "role", "network", "path", "ema", "sampling_steps", "decoder"}


# ------------------------------------------------------------------------------------------------- what is trusted

OWN = """
import torch
from realuid_lightning.paths import FlowMatchingPath
from realuid_lightning.networks import MLP
class OwnPath(FlowMatchingPath): ...
class OwnNet(MLP): ...
"""


@pytest.fixture
def own(generator, tmp_path, monkeypatch):
    """The checkpoint of a generator whose path and network are classes of a file in the current folder."""
    (tmp_path / "own_classes.py").write_text(OWN)
    path = {"class_path": "own_classes.OwnPath", "init_args": {}}
    yield generator(path=path, network={**NETWORK, "class_path": "own_classes.OwnNet"})
    sys.modules.pop("own_classes", None)


def test_own_classes_open_with_one_word(own, tmp_path, monkeypatch, capfd):
    assert main(["export", own, "out.safetensors"]) == 2
    said = capfd.readouterr().err
    assert 'load_generator(file, trust=["own_classes"])' in said
    assert "realuid export --trust own_classes" in said
    assert said.startswith(f"error: {own}: own_classes.OwnNet is neither of this package nor imported here")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    # Of the current folder; the option may be repeated.
    assert main(["export", "--trust=torch", "--trust", "own_classes", own, "out.safetensors"]) == 0
    del sys.modules["own_classes"]
    for file in (own, "out.safetensors"):
        with pytest.raises(UserError, match="own_classes"):
            load_generator(file)
    loaded = load_generator("out.safetensors", trust=["own_classes"])
    assert type(loaded.path).__name__ == "OwnPath"
    assert type(loaded.network).__name__ == "OwnNet"
    assert type(load_generator(own).path) is type(loaded.path)  # imported by now


def test_trust_is_a_list(own):
    with pytest.raises(UserError, match=r"say trust=\['own_classes'\]"):
        load_generator(own, trust="own_classes")


def test_a_network_and_a_path_that_are_passed_in_need_no_trust(own):
    load_generator(own, network=MLP([2], width=8, depth=1), on=FlowMatchingPath())


# --------------------------------------------------------------------------------------------------------- schema

CYCLE = {"class_path": "A", "init_args": {}}
CYCLE["init_args"]["again"] = CYCLE
DOUBLING = 0
for _ in range(18):
    DOUBLING = [DOUBLING, DOUBLING]

MALFORMED = {
    "no format": ({"format": "gone"}, "format must be 1, got nothing"),
    "format 0": ({"format": 0}, "format must be 1, got 0"),
    "format as text": ({"format": "1"}, "format must be 1, got '1'"),
    "a later format": ({"format": 2}, "of a later version; update"),
    "no role": ({"role": "gone"}, "role must be teacher or generator, got nothing"),
    "an unknown role": ({"role": "critic"}, "got 'critic'"),
    "no network": ({"network": "gone"}, "network must be .*, got nothing"),
    "a network that is a text": ({"network": "MLP"}, "network must be .*, got 'MLP'"),
    "a network without arguments": ({"network": {"class_path": "MLP"}}, "network must be .*, got dict"),
    "arguments in a list": ({"network": {"class_path": "a.B", "init_args": [1]}}, "network must be .*, got dict"),
    "a tensor as argument": ({"path": {"class_path": "a.B", "init_args": {"x": torch.ones(1)}}}, "path must be"),
    "no name of a class": ({"path": {"class_path": "a; b", "init_args": {}}}, "path must be"),
    "no path": ({"path": None}, "path must be .*, got None"),
    "a cycle": ({"path": CYCLE}, "path must be .*, got dict"),
    "endless": ({"path": {"class_path": "A", "init_args": {"x": DOUBLING}}}, "path must be .*, got dict"),
    "a huge number": ({"path": {"class_path": "A", "init_args": {"x": 10**100}}}, "path must be .*, got dict"),
    "averages that are a number": ({"ema": 0.9}, r"ema must be a list of decays in \[0, 1\), got 0.9"),
    "averages of texts": ({"ema": ["0.9"]}, "ema must be a list of decays"),
    "no averages": ({"ema": "gone"}, "ema must be .*, got nothing"),
    "no steps": ({"sampling_steps": 0}, "sampling_steps must be from 1 to 10000, got 0"),
    "endless steps": ({"sampling_steps": 2**62}, "sampling_steps must be from 1 to 10000"),
    "steps as text": ({"sampling_steps": "4"}, "sampling_steps must be"),
    "a list": (None, "got a foreign one"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_record_is_one_message_wherever_it_is_read(generator, tmp_path, capfd, fault):
    fields, words = MALFORMED[fault]
    file = generator(**(fields or {}))
    if fields is None:
        torch.save({**content(), RECORD: [1, 2]}, file)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes((tmp_path / file).read_bytes())
    readers = [
        lambda: load_generator(file),
        lambda: export_generator(file, "out.safetensors"),
        lambda: load_weights(file, role="teacher", path=FlowMatchingPath()),
        lambda: load_weights(file, role="generator", path=FlowMatchingPath(), ema=0.5),
        lambda: AtomicCheckpointIO().load_checkpoint(file),
        lambda: find_checkpoint(tmp_path / "run", "last"),
        lambda: RealUIDModule(MLP([2], width=8), None).on_load_checkpoint(torch.load(file, weights_only=True)),
    ]
    for read in readers:
        with pytest.raises(UserError, match=words) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert main(["export", file, "out.safetensors"]) == 2
    assert capfd.readouterr().err.startswith("error: generator.ckpt: ")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"format": 1', "expected JSON under realuid_lightning in its header, but it is broken"),
        ("[" * 100_000, "is broken"),
        ("[1, 2]", "got a foreign one"),
        ('{"format": 7}', "of a later version"),
        ("{}", "its record is malformed: format must be 1"),
    ],
)
def test_the_header_of_an_export_is_checked_alike(tmp_path, header, words):
    file = tmp_path / "file.safetensors"
    save_file({"weight": torch.zeros(2)}, file, {RECORD: header})
    for read in (
        lambda: load_generator(file),
        lambda: load_weights(file, role="teacher"),
        lambda: load_weights(file, role="generator"),
        lambda: AtomicCheckpointIO().load_checkpoint(file),
    ):
        with pytest.raises(UserError, match=words):
            read()


@pytest.mark.parametrize("state", [None, 3, [], {1: torch.ones(1)}])
def test_a_checkpoint_without_weights_is_told(tmp_path, state):
    torch.save({**content(), "state_dict": state}, tmp_path / "file.ckpt")
    for read in (load_generator, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError, match="expected weights by name under state_dict"):
            read(tmp_path / "file.ckpt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("global_step", "7"), ("global_step", None), ("epoch", None), ("pytorch-lightning_version", "x")),
        *(("loops", []), ("loops", {}), ("loops", {**LOOPS, "fit_loop": 3}), ("callbacks", [1]), ("guard", 3)),
        *(("callbacks", {"RunCheckpoint": 3}), ("guard", {"skipped": 0, "in_a_row": {"network": "x"}})),
        *(("optimizer_states", {}), ("lr_schedulers", [1]), ("batch", "x"), ("batch", {"seed": [1]})),
        *(("aim", "x"), ("aim", {"objective": 1})),
        *(("optimizer_states", [state]) for state in ({}, {"state": {}}, {"state": 3, "param_groups": []})),
        *(("optimizer_states", [{"state": {}, "param_groups": [group]}]) for group in (1, {})),
        *(("lr_schedulers", [state]) for state in ({}, {"last_epoch": "3"}, {"_schedulers": []})),
        *(("guard", {}), ("guard", {"skipped": 0}), ("guard", {"skipped": "x", "in_a_row": {}})),
        *(("guard", {"skipped": 0, "in_a_row": [1]}), ("guard", {"skipped": 0, "in_a_row": {"fake": "a"}})),
        *(("optimizers", "Adam"), ("optimizers", [1])),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_says_why(tmp_path, name, value):
    file = tmp_path / "file.ckpt"
    torch.save(content(), file)
    assert AtomicCheckpointIO().load_checkpoint(file)["global_step"] == 0
    torch.save({**content(), name: value}, file)
    with pytest.raises(UserError, match=f"the state of its run is malformed: {name} must be a"):
        AtomicCheckpointIO().load_checkpoint(file)


# ------------------------------------------------------------------------------------------- exports are no state dicts


@pytest.fixture
def export(generator):
    export_generator(generator(), "export.safetensors")
    return "export.safetensors"


def test_an_export_is_a_generator_of_its_path_and_nothing_else(export):
    weights = load_weights(export, role="generator", path=FlowMatchingPath())
    assert set(weights) == set(MLP([2], width=8, depth=1).state_dict())
    for options, words in [
        ({"role": "teacher"}, "expected the checkpoint of a teacher, got that of a generator"),
        ({"role": "generator", "path": FlowMatchingPath(CosineSchedule())}, "made on the path FlowMatchingPath"),
        ({"role": "generator", "ema": 0.9}, "an export holds one set of weights"),
    ]:
        with pytest.raises(UserError, match=words):
            load_weights(export, **options)
    with pytest.raises(UserError, match="got an export, which holds one network's weights"):
        AtomicCheckpointIO().load_checkpoint(export)


def test_an_export_can_be_exported_again(export):
    export_generator(export, "again.safetensors")
    with safe_open(export, "pt") as one, safe_open("again.safetensors", "pt") as other:
        assert one.metadata() == other.metadata()


class Listed(MatchingPath):
    """A path with a tuple, which the header of an export keeps as a list."""

    def __init__(self, marks=(0.1, 0.2)):
        self.marks = marks

    def mean(self, t, x0, x1):
        return t * x1 + (1 - t) * x0


def test_tuples_survive_the_header_of_an_export(tmp_path):
    torch.save(content(path=Listed()), tmp_path / "file.ckpt")
    export_generator(tmp_path / "file.ckpt", tmp_path / "export.safetensors")
    load_weights(tmp_path / "export.safetensors", role="generator", path=Listed())
    with pytest.raises(UserError, match="made on the path Listed"):
        load_weights(tmp_path / "export.safetensors", role="generator", path=Listed((0.1, 0.3)))
