"""Networks of diffusers, called, trained and described as ours are."""

import copy
import sys

import pytest
import torch
from helpers import checkpoint, fit, same, weights
from small_diffusers import LABELS, UNET, aura_flow, dit, labelled_unet, made, noise, sd3, unet, unet_of_text

from realuid_lightning import load_generator
from realuid_lightning.checkpoints import RECORD
from realuid_lightning.data import Digits, MatchingDataModule
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.networks import DiffusersNetwork, HeadedNetwork
from realuid_lightning.paths import DDPMSchedule, DiffusionPath, Noise, ReversedTime
from realuid_lightning.recorded import rebuild

CONFIG = {"_class_name": "UNet2DModel", **UNET}
TIMES = torch.tensor([0.0, 500.0, 999.0])
every_model = pytest.mark.parametrize(
    "make", [unet, labelled_unet, unet_of_text, dit, sd3, aura_flow], ids=lambda make: make.__name__
)


def wrapped(model):
    network = DiffusersNetwork({"_class_name": type(model).__name__, **plain(model)})
    network.model.load_state_dict(model.state_dict())
    return network.eval()


def plain(model):
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def ddpm():
    return DiffusionPath(DDPMSchedule(), parameterisation=Noise(ReversedTime(999.0)))


@every_model
def test_it_predicts_what_the_model_does(make):
    model, y = made(make)
    network, x = wrapped(model), noise(model)
    conditions = {} if y is None else y if isinstance(y, dict) else {"class_labels": y}
    with torch.no_grad():
        expected = model(x, timestep=TIMES, return_dict=False, **conditions)[0][:, : x.shape[1]]
        assert torch.equal(network(TIMES, x, y), expected)
        if y is not None:
            assert torch.equal(network(TIMES, x, conditions), expected)
            assert not torch.equal(
                network(TIMES, x, {name: part.flip(0) for name, part in conditions.items()}), expected
            )
    assert network.shape == tuple(x.shape[1:])
    assert network.num_classes == (None if y is None or isinstance(y, dict) else 4)


@every_model
def test_its_record_builds_it_again_without_a_folder(make):
    network = wrapped(made(make)[0])
    again = rebuild(network.recorded(), DiffusersNetwork)
    again.load_state_dict(network.state_dict())
    assert again.recorded() == network.recorded()
    with torch.device("meta"):
        assert rebuild(network.recorded(), DiffusersNetwork).shape == network.shape


@every_model
def test_training_drops_no_labels_and_reaches_the_weights(make):
    model, y = made(make)
    network = wrapped(model).train()
    outputs = [network(TIMES, noise(model), y) for _ in range(2)]
    assert torch.equal(*outputs)
    outputs[0].square().sum().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not [name for name in without if "proj_out" in name or "conv_out" in name]


@every_model
def test_precisions(make):
    model, y = made(make)
    network, x = wrapped(model), noise(model)
    single = network(TIMES, x, y)
    double = copy.deepcopy(network).double()(TIMES.double(), x.double(), _as(y, torch.float64))
    half = copy.deepcopy(network).bfloat16()(TIMES, x.bfloat16(), _as(y, torch.bfloat16))
    assert (double.dtype, half.dtype) == (torch.float64, torch.bfloat16)
    assert (single - double).norm() < 1e-4 * double.norm()
    assert (single - half).norm() < 0.1 * single.norm()


def _as(y, dtype):
    return {name: part.to(dtype) for name, part in y.items()} if isinstance(y, dict) else y


def test_recomputation_changes_no_gradient():
    model, _ = made(unet)
    x, found = noise(model), []
    for way in (False, True):
        network = DiffusersNetwork(CONFIG, checkpoint=way)
        network.model.load_state_dict(model.state_dict())
        assert network.model.is_gradient_checkpointing is way
        network(TIMES, x).square().sum().backward()
        found.append({name: weight.grad for name, weight in network.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_no_label_is_that_of_the_table():
    labelled, transformer = wrapped(made(labelled_unet)[0]), wrapped(made(dit)[0])
    assert transformer.unconditional(LABELS).tolist() == [4, 4, 4]
    assert transformer(TIMES, torch.zeros(3, 4, 8, 8), transformer.unconditional(LABELS)).isfinite().all()
    with pytest.raises(UserError, match="UNet2DModel does not tell what stands for no condition"):
        labelled.unconditional(LABELS)


def test_a_label_may_stand_for_none():
    config = {"_class_name": "UNet2DModel", **UNET, "num_class_embeds": 4}
    network = DiffusersNetwork(config, null=3)
    assert network.num_classes == 3
    assert network.unconditional(torch.tensor([0, 2])).tolist() == [3, 3]
    assert rebuild(network.recorded(), DiffusersNetwork).num_classes == 3
    for null, classes in ((2, 4), (3, None)):
        with pytest.raises(
            UserError, match=f"null must be the last of the labels .*, got {null} of {classes or 'none'}"
        ):
            DiffusersNetwork({**config, "num_class_embeds": classes}, null=null)


def test_inputs_that_do_not_fit_are_refused():
    plain_one, labelled, text = (wrapped(made(make)[0]) for make in (unet, labelled_unet, unet_of_text))
    x = torch.zeros(3, 1, 8, 8)
    with pytest.raises(UserError, match=r"x must have shape \(batch, 1, 8, 8\), got \(3, 1, 8, 4\)"):
        plain_one(TIMES, x[..., :4])
    with pytest.raises(UserError, match=r"t must have shape \(3,\)"):
        plain_one(TIMES[:1], x)
    with pytest.raises(UserError, match="y must be None"):
        plain_one(TIMES, x, LABELS)
    with pytest.raises(UserError, match="y must hold labels, for the network has 4 classes"):
        labelled(TIMES, x)
    with pytest.raises(UserError, match=r"y must be a dict of tensors .* got \['text'\]"):
        plain_one(TIMES, x, {"text": LABELS})
    with pytest.raises(UserError, match=r"got \['timestep'\]"):
        plain_one(TIMES, x, {"timestep": TIMES})
    with pytest.raises(UserError, match=r"with \['encoder_hidden_states'\] in it"):
        text(TIMES, torch.zeros(3, 4, 8, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "must be a UNet or transformer of diffusers, such as UNet2DModel, got None"),
        ({"_class_name": "AutoencoderKL"}, "must be a UNet or transformer of diffusers"),
        ({"_class_name": "DiffusionPipeline"}, "must be a UNet or transformer of diffusers"),
        ({"_class_name": "utils"}, "must be a UNet or transformer of diffusers"),
        ({"_class_name": "StableDiffusion3Pipeline"}, "must be a UNet or transformer of diffusers"),
        ({"_class_name": ["UNet2DModel"]}, "must be a UNet or transformer of diffusers"),
        (CONFIG | {"tricks": 1}, "knows no tricks"),
        (CONFIG | {"down_block_types": ["DownBlock2D"]}, "UNet2DModel refuses its config: ValueError"),
        (CONFIG | {"block_out_channels": "many"}, "UNet2DModel refuses its config"),
        (CONFIG | {"time_embedding_type": "learned", "num_train_timesteps": 10}, "knows whole steps only"),
        (CONFIG | {"sample_size": None}, "shape must be given"),
    ],
)
def test_other_configs_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        DiffusersNetwork(config)


def test_a_shape_is_given_where_the_config_has_none():
    assert DiffusersNetwork(CONFIG | {"sample_size": None}, shape=[1, 16, 16]).shape == (1, 16, 16)
    assert DiffusersNetwork(CONFIG | {"sample_size": [8, 16]}).shape == (1, 8, 16)
    inpainting = DiffusersNetwork(CONFIG | {"in_channels": 3})
    assert (inpainting.shape, inpainting.condition_channels) == ((1, 8, 8), 2)
    assert inpainting(TIMES, torch.zeros(3, 3, 8, 8)).shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match=r"shape must be that of the config, \(1, 8, 8\), got \[1, 16, 16\]"):
        DiffusersNetwork(CONFIG, shape=[1, 16, 16])


def test_without_the_library_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'realuid-lightning\[diffusers\]'"):
        DiffusersNetwork(CONFIG)


def test_it_carries_no_head_and_says_so():
    with pytest.raises(UserError, match="DiffusersNetwork lacks encode, decode"):
        HeadedNetwork(DiffusersNetwork(CONFIG))


def test_all_three_roles_train_and_the_generator_loads_without_a_folder(tmp_path):
    model, _ = made(unet)
    module = RealUIDModule(wrapped(model), None, path=ddpm(), fake_steps=1, alpha=0.9, beta=0.95, ema=[0.5])
    before = weights(module.generator)
    fit(module, MatchingDataModule(Digits(), 4), tmp_path)
    assert not same(weights(module.generator), before)
    torch.save(checkpoint(module), tmp_path / "generator.ckpt")
    generator, z = load_generator(tmp_path / "generator.ckpt", ema=0.5), torch.randn(2, 1, 8, 8)
    assert torch.equal(generator(z), module.ema.named()["ema_0.5"].eval()(z))
    teacher = TeacherModule(wrapped(model), path=ddpm(), sampling_steps=[2])
    fit(teacher, MatchingDataModule(Digits(), 4), tmp_path)


def test_a_small_file_cannot_ask_for_a_large_network(tmp_path):
    content = checkpoint(RealUIDModule(wrapped(made(unet)[0]), None, path=ddpm()))
    content[RECORD]["network"]["init_args"]["config"]["layers_per_block"] = 10**6
    torch.save(content, tmp_path / "generator.ckpt")
    with pytest.raises(UserError, match=r"its network outgrows the 1\d\d weights of the file"):
        load_generator(tmp_path / "generator.ckpt")
