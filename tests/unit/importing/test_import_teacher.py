"""What is imported says where it comes from and describes itself; what does not fit is told in one message."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import Persistent, edm_module, values, write_edm, write_pickle, write_torchcfm, write_transformer
from helpers import checkpoint
from safetensors import safe_open
from safetensors.torch import save_file

from realuid_lightning import RealUIDModule, TeacherModule
from realuid_lightning.checkpoints import RECORD, describe_teacher, load_weights, read_teacher, write_teacher
from realuid_lightning.errors import UserError
from realuid_lightning.importing import Found, Kind, Origin, Told, import_teacher, teacher
from realuid_lightning.networks import MLP, UNet
from realuid_lightning.paths import DiffusionPath, FlowMatchingPath

UNET: dict[str, Any] = {"image_size": 8, "num_head_channels": 32}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(words: str, file: Any, target: str = "teacher.safetensors", **options: Any) -> None:
    """Check that a file is refused with these words, in few lines, and that nothing is written."""
    with pytest.raises(UserError, match=words) as caught:
        import_teacher(file, target, **options)
    assert len(str(caught.value)) < 2000
    assert not Path(target).exists()


def test_the_file_says_what_it_is_and_where_it_comes_from(here: Path) -> None:
    report = import_teacher(write_torchcfm(here / "cfm.pt"), "teacher.safetensors", **UNET)
    with safe_open("teacher.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()[RECORD])
    import hashlib

    digest = hashlib.sha256((here / "cfm.pt").read_bytes()).hexdigest()
    assert record["origin"] == {"file": "cfm.pt", "kind": "unet", "weights": "ema_model", "sha256": digest}
    assert record["role"] == "teacher"
    assert len(report.mapped) == len(values("unet_uncond")[0])
    lines = report.lines()
    assert lines[2] == "weights  ema_model: 88 of 88 mapped, 0 missing, 0 left over"
    assert lines[3:] == [
        f"assumed  {each} (the file does not tell)" for each in ("path_type linear", "prediction velocity")
    ]


def test_an_imported_teacher_is_a_teacher_wherever_one_is_asked_for(here: Path) -> None:
    import_teacher(write_edm("edm_ddpmpp_cond", here / "edm.pkl"), "teacher.safetensors")
    network, path = read_teacher("teacher.safetensors")
    assert not any(weight.requires_grad for weight in network.parameters())
    assert load_weights("teacher.safetensors", role="teacher", path=path).keys() == network.state_dict().keys()
    module = RealUIDModule(network, "teacher.safetensors", path=path)
    module.start()
    with pytest.raises(UserError, match="expected the checkpoint of a generator, got that of a teacher"):
        load_weights("teacher.safetensors", role="generator")
    with pytest.raises(UserError, match="made on the path DiffusionPath"):
        load_weights("teacher.safetensors", role="teacher", path=FlowMatchingPath())
    with pytest.raises(UserError, match="an export holds one set of weights"):
        read_teacher("teacher.safetensors", 0.999)


def test_teachers_of_ours_are_loaded_and_described_alike(here: Path) -> None:
    module = TeacherModule(MLP([2], width=8, depth=1), path=DiffusionPath(), ema=[0.9])
    torch.save(checkpoint(module), "teacher.ckpt")
    network, path = read_teacher("teacher.ckpt", 0.9)
    described = describe_teacher("teacher.ckpt")
    assert described.network.recorded() == network.recorded() == module.network.recorded()  # type: ignore[operator]
    assert described.path.recorded() == path.recorded()
    assert all(weight.is_meta for weight in described.network.parameters())


def test_what_is_no_teacher_is_neither_loaded_nor_described(here: Path) -> None:
    torch.save(checkpoint(RealUIDModule(MLP([2], width=8, depth=1), None)), "generator.ckpt")
    save_file({"weight": torch.zeros(1)}, "bare.safetensors")
    Path("cut.safetensors").write_bytes(Path("bare.safetensors").read_bytes()[:20])
    record = {"class_path": "realuid_lightning.networks.MLP", "init_args": {"shape": [2], "width": 10**6}}
    path = FlowMatchingPath().recorded()
    whole = {"format": 1, "role": "teacher", "network": record, "path": path, "ema": []}
    for name, changes in {
        "large": {},
        "evil": {"network": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
        "unknown": {"network": None},
    }.items():
        save_file({"weight": torch.zeros(1)}, f"{name}.safetensors", {RECORD: json.dumps({**whole, **changes})})
    for file, words in {
        "generator.ckpt": "expected a teacher, got a generator",
        "bare.safetensors": "expected a checkpoint of this package",
        "cut.safetensors": "cut off",
        "gone.safetensors": "no such file",
        "large.safetensors": "outgrows the 1 weights",
        "evil.safetensors": "must be a subclass|neither of this package",
        "unknown.safetensors": "does not record its arguments",
    }.items():
        for read in (read_teacher, describe_teacher):
            with pytest.raises(UserError, match=words):
                read(file)


def test_only_networks_that_describe_themselves_are_written(here: Path) -> None:
    with pytest.raises(UserError, match="Linear must derive from Recorded"):
        write_teacher(torch.nn.Linear(1, 1), FlowMatchingPath(), "teacher.safetensors", {})
    with pytest.raises(UserError, match=r"teacher.pt: a teacher is a .safetensors file"):
        write_teacher(MLP([2]), FlowMatchingPath(), "teacher.pt", {})


def test_a_folder_may_be_a_kind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = MLP([2], width=8, depth=1)

    def read(origin: Origin, told: Told) -> Found:
        assert told.need("num_heads", "a number that the folder does not tell") == 3
        return Found(lambda: MLP([2], width=8, depth=1), FlowMatchingPath(), network.state_dict(), origin.path.name)

    kind = Kind("folder", "a folder", frozenset({"num_heads"}), lambda origin: origin.path.is_dir(), read)
    monkeypatch.setattr(teacher, "KINDS", (*teacher.KINDS, kind))
    (here / "net" / "deep").mkdir(parents=True)
    (here / "net" / "deep" / "config.json").write_text("{}")
    refused("that the folder does not tell: say --num_heads", "net")
    import_teacher("net", "teacher.safetensors", num_heads=3)
    first = Origin(here / "net").sha256()
    (here / "net" / "deep" / "config.json").write_text("{ }")
    assert Origin(here / "net").sha256() != first
    assert read_teacher("teacher.safetensors").network.recorded() == network.recorded()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------------ what is refused


def test_files_of_no_known_kind(here: Path) -> None:
    refused("no such file", "gone.pt")
    (here / "folder").mkdir()
    refused("expected a pickle of EDM.*, got a folder", "folder")
    torch.save({"weight": torch.zeros(2), "epoch": 3}, "other.pt")
    refused("expected a pickle of EDM.*, got weight, epoch", "other.pt")
    torch.save(checkpoint(TeacherModule(MLP([2], width=8))), "ours.ckpt")
    refused("is this package's own already; name it in model.teacher_ckpt", "ours.ckpt")
    Path("text.pkl").write_text("no pickle")
    refused("cut off or of another format", "text.pkl")
    refused("teacher.pt: a teacher is a .safetensors file", "gone.pt", target="teacher.pt")


def test_options_act_or_are_refused(here: Path) -> None:
    edm, cfm = write_edm("edm_ddpmpp_cond", here / "edm.pkl"), write_torchcfm(here / "cfm.pt")
    refused("image_size must be left out: of a pickle of EDM or EDM2 .*, nothing can be told", edm, image_size=16)
    refused("num_heads must be left out: of a UNet", cfm, num_heads=4)
    refused("does not tell how large its images are: say --image_size", cfm)
    refused("num_head_channels must divide the channels under attention", cfm, image_size=8)
    refused("path_type must be linear, gvp, vp, got x", cfm, **UNET, path_type="x")
    refused("prediction must be velocity or noise, got score", cfm, **UNET, prediction="score")
    refused("there is no 'x': say --weights NAME", cfm, **UNET, weights="x")
    refused("kind must be one of edm, .*, got 'x'", cfm, kind="x")
    refused("expected a DiT .*, got net_model, ema_model", cfm, kind="dit")
    report = import_teacher(cfm, "raw.safetensors", **UNET, weights="net_model", path_type="gvp", prediction="noise")
    assert (report.chosen, report.assumed) == ("net_model", [])
    assert "CosineSchedule" in report.path
    assert "Noise" in report.path


def test_transformers_are_told_apart_by_their_args_or_the_user(here: Path) -> None:
    save_file(values("foreign/sit")[0], "bare.safetensors")
    refused("may be a DiT .* or a SiT .*: say --kind dit or --kind sit", "bare.safetensors")
    refused("does not tell the attention heads of its 2 blocks: say --num_heads", "bare.safetensors", kind="sit")
    sit = write_transformer(here / "sit.pt", path_type="Linear", prediction="score")
    refused("prediction must be velocity or noise, got score", sit, num_heads=4)
    refused("path_type is Linear by the file's own args, got vp", sit, num_heads=4, path_type="vp")
    refused("expected a DiT", sit, kind="dit")
    refused(
        "num_classes must be 10, and a row for no label, or 11, got 7",
        "bare.safetensors",
        kind="dit",
        num_heads=4,
        num_classes=7,
    )
    report = import_teacher("bare.safetensors", "eleven.safetensors", kind="dit", num_heads=4, num_classes=11)
    assert "null_label=False" in report.network
    report = import_teacher(write_transformer(here / "dit.pt", "DiT"), "dit.safetensors", num_heads=4, sigma_data=0.8)
    assert (report.kind, report.chosen, report.assumed) == ("dit", "ema", [])
    assert "sigma_data=0.8" in report.path


def test_a_distilled_generator_is_no_teacher(here: Path) -> None:
    state = values("unet_uncond")[0]
    torch.save({"gen": state, "ema_gens": {0.999: state}}, "distilled.pt")
    refused("holds a distilled generator, not a teacher: name it in model.generator_ckpt", "distilled.pt")


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    state = dict(values("unet_uncond")[0])
    change(state)
    return state


WEIGHTS = {
    "a missing one": (lambda state: state.pop("out.2.bias"), r"1 of 88 missing: out.2.bias"),
    "a further one": (lambda state: state.update(more=torch.ones(1)), r"1 of 89 unexpected: more"),
    "a shape": (
        lambda state: state.update({"out.2.bias": torch.ones(4)}),
        r"of another shape: out.2.bias \(4,\), expected \(3,\)",
    ),
    "no number": (
        lambda state: state.update({"out.2.bias": torch.full((3,), torch.inf)}),
        "1 of 88 are not: out.2.bias",
    ),
    "no time": (
        lambda state: state.update({"input_blocks.0.0.weight": torch.ones(2)}),
        "input_blocks.0.0.weight of 4 dim",
    ),
    "no blocks": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("input_blocks.1")],
        "its blocks are not those of UNet",
    ),
    "half of its blocks scaled": (
        lambda state: state.update({"input_blocks.1.0.emb_layers.1.weight": torch.ones(64, 128)}),
        "of another shape",
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_every_weight_has_its_place_or_nothing_is_written(fault: str, here: Path) -> None:
    change, words = WEIGHTS[fault]
    torch.save({"ema_model": changed(change)}, "cfm.pt")
    refused(words, "cfm.pt", **UNET)


# ------------------------------------------------------------------------------------------------------ EDM's pickles

ARGUMENTS = {
    "another decoder": ({"decoder_type": "skip"}, "built with decoder_type=skip, which no network here has"),
    "an unknown one": ({"novelty": 3}, "built with novelty=3"),
    "an object": ({"model_channels": Persistent("x")}, "model_channels, which is no plain value"),
    "a text for a number": ({"img_resolution": "16"}, "cannot be built from its arguments"),
    "a wrong width": ({"model_channels": 32}, "of another shape"),
    "terabytes": ({"model_channels": 2**20}, "outgrows the 149 weights"),
    "a buffer of terabytes": ({"augment_dim": 2**50}, "outgrows the 149 weights"),
    "a wide filter": ({"resample_filter": [1.0] * 20_000}, "outgrows the 149 weights"),
    "millions of blocks": ({"num_blocks": 2**40}, "outgrows the 149 weights"),
    "millions of levels": ({"channel_mult": [1] * 100_000}, "image_size must be divisible|cannot be built"),
    "no size": ({"img_resolution": 0}, "image_size must be positive"),
}


@pytest.mark.parametrize("fault", ARGUMENTS)
def test_arguments_of_strangers_are_checked(fault: str, here: Path) -> None:
    arguments, words = ARGUMENTS[fault]
    refused(words, write_edm("edm_ddpmpp_cond", here / "edm.pkl", **arguments))


def test_pickles_that_are_not_quite_edm(here: Path) -> None:
    def written(change: Callable[[Persistent], Any], name: str = "edm_ddpmpp_cond") -> Path:
        module = edm_module(name)
        change(module)
        return write_pickle({"ema": module}, here / "edm.pkl")

    inner = "_modules"
    refused("expected a pickle of EDM", written(lambda it: setattr(it, "name", "iDDPMPrecond")))
    refused("a number sigma_data of EDMPrecond", written(lambda it: it.state.pop("sigma_data")))
    refused("sigma_data must be", written(lambda it: it.state.update(sigma_data=float("nan"))))
    refused("a whole number M", written(lambda it: it.state.update(M=float("inf")), "vp_ddpmpp_uncond"))
    refused("expected a network model within EDMPrecond", written(lambda it: it.state[inner].pop("model")))
    refused(
        "a SongUNet or DhariwalUNet, got Other", written(lambda it: setattr(it.state[inner]["model"], "name", "Other"))
    )
    refused("but the file has none", written(lambda it: it.state[inner]["model"].state.pop("_init_kwargs")))
    refused("but the file has none", written(lambda it: it.state[inner]["model"].state.update(_init_args=(16,))))


def test_states_of_edms_training_hold_the_raw_network(here: Path) -> None:
    write_pickle({"net": edm_module("edm_ddpmpp_cond")}, here / "state.pt", torch.save)
    import_teacher("state.pt", "raw.safetensors")
    import_teacher(write_edm("edm_ddpmpp_cond", here / "edm.pkl"), "teacher.safetensors")
    one, other = (read_teacher(f"{name}.safetensors").network.state_dict() for name in ("raw", "teacher"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_modules_that_hold_themselves_are_refused(here: Path) -> None:
    module = edm_module("edm_ddpmpp_cond")
    module.state["_modules"]["model"].state["_modules"]["again"] = module
    refused("modules, or 20 within each other", write_pickle({"ema": module}, here / "edm.pkl"))


def test_doubling_modules_are_refused(here: Path) -> None:
    module = edm_module("edm_ddpmpp_cond")
    holder = Persistent("Leaf")
    for _ in range(18):
        above = Persistent("Twice")
        above.state["_modules"] |= {"a": holder, "b": holder}
        holder = above
    module.state["_modules"]["model"].state["_modules"]["again"] = holder
    refused("more than 20000 modules", write_pickle({"ema": module}, here / "edm.pkl"))


def test_source_text_in_a_pickle_is_not_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Persistent, "source", f"open({str(here / 'sprung')!r}, 'w').close()")
    import_teacher(write_edm("edm2_cond", here / "edm2.pkl"), "teacher.safetensors")
    assert not (here / "sprung").exists()


def test_networks_in_half_precision_become_single(here: Path) -> None:
    module = edm_module("edm2_cond")

    def halve(part: Any) -> None:
        state = part.state if isinstance(part, Persistent) else {"_modules": part._modules}
        for kind in ("_parameters", "_buffers"):
            for key, value in state.get(kind, {}).items():
                state[kind][key] = torch.nn.Parameter(value.half()) if kind == "_parameters" else value.half()
        for each in state["_modules"].values():
            halve(each)

    halve(module)
    import_teacher(write_pickle({"ema": module}, here / "edm2.pkl"), "teacher.safetensors")
    network, _ = read_teacher("teacher.safetensors")
    assert {weight.dtype for weight in network.state_dict().values()} == {torch.float32}
    expected = values("foreign/edm2_cond")[0]["unet.out_conv.weight"].half().float()
    assert torch.equal(network.state_dict()["out_conv.weight"], expected)


def test_the_unet_of_several_levels_is_found_from_its_weights(here: Path) -> None:
    arguments: dict[str, Any] = {"model_channels": 32, "num_res_blocks": 2, "channel_mult": [1, 1, 3]}
    network = UNet(16, 1, **arguments, attention_resolutions=[8, 4], num_head_channels=32, num_classes=7)
    torch.save({"net_model": network.state_dict()}, "cfm.pt")
    import_teacher("cfm.pt", "teacher.safetensors", image_size=16, num_head_channels=32)
    assert read_teacher("teacher.safetensors").network.recorded() == network.recorded()  # type: ignore[operator]
