"""Folders of diffusers: teachers read strictly, without running anything; generators written as pipelines."""

import json
import pickle

import pytest
import torch
from helpers import checkpoint
from safetensors.torch import load_file, save_file
from small_diffusers import LABELS, UNET, diffusers, dit, labelled_unet, made, noise, saved, unet, unet_of_text

from realuid_lightning.checkpoints import (
    export_diffusers,
    is_diffusers_folder,
    load_diffusers,
    load_diffusers_network,
    load_generator,
)
from realuid_lightning.checkpoints.export_diffusers import pipeline_of, step_of
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule
from realuid_lightning.networks import MLP, Generator
from realuid_lightning.paths import BridgePath, DDPMSchedule, DiffusionPath, FlowMatchingPath, Noise, ReversedTime

# Its Euler hands tensors to numpy in a way that newer numpy calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A pipeline's folder, whole."""
    return saved(tmp_path / "teacher", made(labelled_unet)[0], diffusers.DDPMScheduler())


# --------------------------------------------------------------------------------------------------------- teachers in


def test_a_folder_of_a_pipeline_is_told_from_others(folder):
    assert is_diffusers_folder(folder)
    assert not is_diffusers_folder(folder / "unet")
    assert not is_diffusers_folder(folder / "model_index.json")


def test_a_model_alone_gives_its_network(folder):
    network = load_diffusers_network(folder / "unet")
    assert network.recorded() == load_diffusers(folder)[0].recorded()
    assert not any(str(folder) in str(value) for value in network.recorded()["init_args"]["config"].values())


def test_weights_in_parts_are_read(folder):
    model, _ = made(labelled_unet)
    model.save_pretrained(folder / "unet", max_shard_size="20KB")
    (folder / "unet" / WEIGHTS).unlink()
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    network, _ = load_diffusers(folder)
    assert all(torch.equal(value, network.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_weights_of_fewer_bits_are_widened(folder):
    file = folder / "unet" / WEIGHTS
    save_file({name: value.half() for name, value in load_file(file).items()}, file, {"format": "pt"})
    network, _ = load_diffusers(folder)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_the_older_name_of_a_class_is_followed(folder):
    model, _ = made(dit)
    folder = saved(folder.parent / "dit", model, diffusers.DDPMScheduler())
    file = folder / "transformer" / "config.json"
    content = json.loads(file.read_text()) | {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}
    file.write_text(json.dumps(content))
    assert load_diffusers(folder)[0].recorded()["init_args"]["config"]["_class_name"] == "DiTTransformer2DModel"


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def without_safetensors(folder):
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def with_shards(*names):
    def damage(folder):
        (folder / "unet" / WEIGHTS).unlink()
        (folder / "unet" / "evil.bin").write_bytes(pickle.dumps(Evil()))
        weights = {f"weight_{number}": name for number, name in enumerate(names)}
        (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))

    return damage


def with_weights(change):
    def damage(folder):
        file = folder / "unet" / WEIGHTS
        save_file(change(load_file(file)), file, {"format": "pt"})

    return damage


def with_config(**fields):
    def damage(folder):
        file = folder / "unet" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_safetensors, "expected a config and diffusion_pytorch_model.safetensors that fit it"),
        (with_shards("evil.bin"), r"must name safetensors files beside it, got \['evil.bin'\]"),
        (with_shards("../../other.safetensors"), "must name safetensors files beside it"),
        (with_shards("gone.safetensors"), "expected a config and diffusion_pytorch_model.safetensors"),
        (write(f"unet/{WEIGHTS}", b"cut"), "expected a config and diffusion_pytorch_model.safetensors"),
        (
            with_weights(lambda state: dict(list(state.items())[1:])),
            "its weights do not fit its config: .*missing_keys",
        ),
        (with_weights(lambda state: {**state, "more": torch.zeros(1)}), "do not fit its config: .*unexpected_keys"),
        (with_weights(lambda state: {name: value[:1].clone() for name, value in state.items()}), "expected|do not fit"),
        (with_config(quantization_config={"quant_method": "bitsandbytes"}), "its weights are quantized"),
        (with_config(_class_name="AutoencoderKL"), "must be a UNet or transformer of diffusers"),
        (with_config(num_class_embeds="many"), "expected a config"),
        (write("unet/config.json", b"{"), "expected JSON, as diffusers writes it"),
        (write("unet/config.json", b"[" * 100_000), "expected JSON, as diffusers writes it"),
        (write("unet/config.json", b"[]"), "expected a JSON object, got list"),
        (write("scheduler/scheduler_config.json", b"\xff"), "expected JSON, as diffusers writes it"),
        (write("scheduler/scheduler_config.json", b"{}"), "its config stands for no path known here"),
        (
            lambda folder: (folder / "unet" / "config.json").unlink(),
            "expected config.json, or unet or transformer with",
        ),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(), "expected JSON"),
    ],
)
def test_damaged_folders_are_refused_and_run_nothing(folder, damage, message, capsys):
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_diffusers(folder)
    assert "ran" not in capsys.readouterr().out


def test_a_flow_whose_network_is_told_time_in_an_unknown_way_is_refused(tmp_path):
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "patch_size": 2, "num_layers": 1}
    sizes |= {"num_attention_heads": 2, "attention_head_dim": 8, "caption_channels": 4, "cross_attention_dim": 16}
    model = diffusers.PixArtTransformer2DModel(**sizes, norm_num_groups=1, use_additional_conditions=False)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match="how a PixArtTransformer2DModel is told the time of a flow is not known here"):
        load_diffusers(saved(tmp_path, model, scheduler))


# ------------------------------------------------------------------------------------------------------ generators out


def generator_of(folder, make, scheduler, **options):
    model, y = made(make, **options)
    network, path = load_diffusers(saved(folder, model, scheduler))
    return Generator(network, path).eval().requires_grad_(False), y


def images(pipeline, y=None):
    pipeline.set_progress_bar_config(disable=True)
    labels = None if y is None else y.tolist()
    rng = torch.Generator().manual_seed(1)  # that of noise(model)
    return pipeline(3, labels, generator=rng, output_type="pt").images


@pytest.mark.parametrize(
    ("make", "scheduler", "options", "kept"),
    [
        (unet, "DDPMScheduler", {}, True),
        (labelled_unet, "DDIMScheduler", {"prediction_type": "v_prediction"}, True),
        (labelled_unet, "EulerDiscreteScheduler", {"prediction_type": "sample"}, True),
        (unet, "DDPMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, True),
        (unet, "DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 7}, True),
        (labelled_unet, "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, False),
    ],
)
def test_the_pipeline_draws_what_the_generator_does(tmp_path, make, scheduler, options, kept):
    generator, y = generator_of(tmp_path / "teacher", make, getattr(diffusers, scheduler)(**options))
    pipeline_of(generator).save_pretrained(tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", low_cpu_mem_usage=False)
    expected = (generator(noise(generator.network.model), y) / 2 + 0.5).clamp(0, 1)
    for _ in range(2):  # a scheduler remembers
        torch.testing.assert_close(images(pipeline, y), expected, atol=1e-5, rtol=0)
    own = generator.network.model.state_dict()
    same = all(torch.equal(value, own[name]) for name, value in pipeline.unet.state_dict().items())
    assert same is kept


def test_factors_go_into_the_outer_layers(tmp_path):
    """A flow told noise on a linear schedule, from a quarter on, whose scales are not the scheduler's."""
    generator, _ = generator_of(tmp_path / "teacher", unet, diffusers.DDPMScheduler())
    path = FlowMatchingPath(parameterisation=Noise(ReversedTime(1000.0)), levels=[0.25])
    flow = Generator(generator.network, path).eval()
    step = step_of(path)
    assert (step.number, step.sigma, step.factor) == (750, pytest.approx(3), pytest.approx(1))
    assert step.gain == pytest.approx(0.75 * 10**0.5 / 3)
    expected = (flow(noise(flow.network.model)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images(pipeline_of(flow)), expected, atol=1e-5, rtol=0)


def test_variances_are_dropped(tmp_path):
    model = diffusers.UNet2DModel(**UNET | {"out_channels": 2})
    generator, _ = generator_of(tmp_path / "teacher", lambda: (model, None), diffusers.DDPMScheduler())
    expected = (generator(noise(model)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images(pipeline_of(generator)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_becomes_a_folder(tmp_path, folder, dtype):
    network, path = load_diffusers(folder)
    module = RealUIDModule(network, None, path=path, ema=[0.5])
    torch.save(checkpoint(module), tmp_path / "generator.ckpt")
    export_diffusers(tmp_path / "generator.ckpt", tmp_path / "out", 0.5, dtype=dtype)
    assert {each.name for each in tmp_path.iterdir()} == {"teacher", "generator.ckpt", "out"}
    options = {"low_cpu_mem_usage": False, "dtype": dtype}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", **options)
    generator = load_generator(tmp_path / "generator.ckpt", 0.5)
    z = torch.randn(3, 1, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)).float()
    expected = (generator(z, LABELS) / 2 + 0.5).clamp(0, 1)
    drawn = images(pipeline, LABELS).float()
    torch.testing.assert_close(drawn, expected, atol=1e-5 if dtype is torch.float32 else 0.1, rtol=0)
    with pytest.raises(UserError, match="expected the name of a folder to create, but it exists"):
        export_diffusers(tmp_path / "generator.ckpt", tmp_path / "out")


def test_what_no_pipeline_can_express_is_told(tmp_path, folder):
    network, path = load_diffusers(folder)
    with pytest.raises(UserError, match="needs a network of diffusers, got MLP, whose code would have to go along"):
        pipeline_of(Generator(MLP([1, 8, 8]), FlowMatchingPath()))
    with pytest.raises(UserError, match="begins at noise, but the generator at samples of a source domain"):
        pipeline_of(Generator(network, BridgePath()))
    with pytest.raises(UserError, match="must have one step, got 2"):
        pipeline_of(Generator(network, path, 2))
    between = DiffusionPath(DDPMSchedule(), generator_sigma=2.5, parameterisation=path.parameterisation)
    with pytest.raises(UserError, match=r"must be told a whole step, got 439\.\d+: set generator_sigma"):
        pipeline_of(Generator(network, between))
    text, path = load_diffusers(saved(tmp_path / "text", made(unet_of_text)[0], diffusers.DDPMScheduler()))
    with pytest.raises(UserError, match="its own pipelines of UNet2DConditionModel need further parts"):
        pipeline_of(Generator(text, path))
    module = RealUIDModule(MLP([2]), None)
    torch.save(checkpoint(module), tmp_path / "mlp.ckpt")
    with pytest.raises(UserError, match=r"mlp\.ckpt: a pipeline of diffusers needs a network of diffusers, got MLP"):
        export_diffusers(tmp_path / "mlp.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
