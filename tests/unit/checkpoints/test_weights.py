"""Weights from any file that holds them, and generators for use outside training."""

import copy
import pickle

import pytest
import torch
from helpers import Tied, checkpoint, mlp
from safetensors.torch import save_file
from torch import nn

from realuid_lightning import load_generator
from realuid_lightning.checkpoints import export_generator, load_weights
from realuid_lightning.checkpoints.io import AtomicCheckpointIO
from realuid_lightning.errors import UserError
from realuid_lightning.modules import RealUIDModule, TeacherModule
from realuid_lightning.paths import (
    CosineSchedule,
    Data,
    DiffusionPath,
    FlowMatchingPath,
    KarrasSchedule,
    LogitNormal,
    MatchingPath,
    Noise,
    NoiseWeight,
    PathTime,
    Uniform,
    Velocity,
)


def saved(module, file):
    AtomicCheckpointIO().save_checkpoint(checkpoint(module), file)
    return file


@pytest.fixture
def distilled(tmp_path):
    module = RealUIDModule(mlp([3]), teacher_ckpt=None, ema=[0.5, 0.9], path=FlowMatchingPath(CosineSchedule()))
    module.start()
    module.ema[0.5].network.network.load_state_dict(mlp([3], seed=1).state_dict())
    return module, saved(module, tmp_path / "distilled.ckpt")


def test_a_generator_is_rebuilt_from_its_checkpoint_alone(distilled):
    module, file = distilled
    z = torch.randn(4, 3)
    for ema, expected in [(None, module.generator), (0.5, module.ema[0.5].network), (0.9, module.ema[0.9].network)]:
        generator = load_generator(file, ema)
        assert torch.equal(generator(z), expected.eval()(z))
        assert isinstance(generator.path.schedule, CosineSchedule)
        assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_an_export_is_the_same_generator(distilled, tmp_path):
    _, file = distilled
    export_generator(file, tmp_path / "generator.safetensors", ema=0.5)
    z = torch.randn(4, 3)
    assert torch.equal(load_generator(tmp_path / "generator.safetensors")(z), load_generator(file, 0.5)(z))
    with pytest.raises(UserError, match="one set of weights"):
        load_generator(tmp_path / "generator.safetensors", ema=0.5)


class Plain(nn.Module):
    """A network that records nothing."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, t, x, y=None):
        return self.layer(x)


def test_a_network_that_records_nothing_is_passed_in(tmp_path):
    module = RealUIDModule(Plain(), teacher_ckpt=None)
    file = saved(module, tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match="pass network="):
        load_generator(file)
    z = torch.randn(2, 3)
    assert torch.equal(load_generator(file, network=Plain())(z), module.generator(z))


def test_foreign_files_teachers_and_unknown_averages_are_refused(distilled, tmp_path):
    _, file = distilled
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    teacher = saved(TeacherModule(mlp([3])), tmp_path / "teacher.ckpt")
    for wrong, ema, words in [
        (tmp_path / "foreign.safetensors", None, "foreign"),
        (teacher, None, "holds a teacher"),
        (file, 0.7, "available: 0.5, 0.9"),
        (tmp_path / "gone.ckpt", None, "no such file"),
    ]:
        with pytest.raises(UserError, match=words):
            load_generator(wrong, ema)


def test_a_bare_state_dict_serves_both_roles_but_has_no_averages(tmp_path):
    state = mlp([3]).state_dict()
    save_file(state, tmp_path / "bare.safetensors")
    torch.save(state, tmp_path / "bare.pt")
    for name in ("bare.safetensors", "bare.pt"):
        for role in ("teacher", "generator"):
            got = load_weights(tmp_path / name, role=role)
            assert all(torch.equal(got[key], state[key]) for key in state)
        with pytest.raises(UserError, match="no averages"):
            load_weights(tmp_path / name, role="teacher", ema=0.9)


def test_another_path_is_refused(distilled):
    _, file = distilled
    load_weights(file, role="generator", path=FlowMatchingPath(CosineSchedule()))
    with pytest.raises(UserError, match=r"FlowMatchingPath\(schedule=CosineSchedule\(\)\), but this run's is"):
        load_weights(file, role="generator", path=FlowMatchingPath())


def test_a_failed_write_leaves_the_checkpoint_before(distilled):
    _, file = distilled
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"pickle|local"):
        AtomicCheckpointIO().save_checkpoint({"fails": lambda: None}, file)
    assert file.read_bytes() == before
    assert [other.name for other in file.parent.iterdir()] == [file.name]


def test_a_teacher_serves_a_path_that_differs_in_its_tuning_alone(tmp_path):
    teacher = saved(TeacherModule(mlp([3]), DiffusionPath(), ema=[0.9]), tmp_path / "teacher.ckpt")
    tuned = DiffusionPath(KarrasSchedule(), generator_share=0.9, generator_sigma=1.5, log_sigma_mean=-1.0)
    load_weights(teacher, role="teacher", path=tuned)
    with pytest.raises(UserError, match="made on the path DiffusionPath"):
        load_weights(teacher, role="teacher", path=DiffusionPath(sigma_data=0.6))
    generator = saved(RealUIDModule(mlp([3]), None, path=DiffusionPath()), tmp_path / "generator.ckpt")
    load_weights(generator, role="generator", path=DiffusionPath(generator_share=0.9, log_sigma_mean=-1.0))
    with pytest.raises(UserError, match="made on the path DiffusionPath"):
        load_weights(generator, role="generator", path=DiffusionPath(generator_sigma=1.5))


class Weighted(MatchingPath):
    training = frozenset({"power"})

    def __init__(self, power=1.0, scale=1.0):
        self.power, self.scale = power, scale

    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * self.scale * x1

    def weight(self, t):
        return 1 + self.power * t


def test_what_acts_in_training_alone_binds_no_teacher_and_no_generator(tmp_path):
    teacher = saved(TeacherModule(mlp([3]), Weighted()), tmp_path / "teacher.ckpt")
    generator = saved(RealUIDModule(mlp([3]), None, path=Weighted()), tmp_path / "generator.ckpt")
    for role, file in {"teacher": teacher, "generator": generator}.items():
        load_weights(file, role=role, path=Weighted(power=2.0))
        with pytest.raises(UserError, match="made on the path Weighted"):
            load_weights(file, role=role, path=Weighted(scale=2.0))


def test_a_teacher_serves_a_flow_of_other_times_but_of_no_other_prediction(tmp_path):
    noise = FlowMatchingPath(parameterisation=Noise())
    teacher = saved(TeacherModule(mlp([3]), noise, ema=[0.9]), tmp_path / "teacher.ckpt")
    trained = {"times": LogitNormal(), "generator_times": Uniform(), "weighting": NoiseWeight()}
    tuned = {**trained, "shift": 3.0, "levels": [0.2, 0.5]}
    load_weights(teacher, role="teacher", path=FlowMatchingPath(parameterisation=Noise(PathTime()), **tuned))
    others = [Velocity(), Data(), Noise(PathTime(1000.0)), Noise(unit_variance=True)]
    for path in [FlowMatchingPath(), *(FlowMatchingPath(parameterisation=other) for other in others)]:
        with pytest.raises(UserError, match=r"made on the path FlowMatchingPath\(.*parameterisation=Noise\(time=Path"):
            load_weights(teacher, role="teacher", path=path)
    generator = saved(RealUIDModule(mlp([3]), None, path=noise), tmp_path / "generator.ckpt")
    load_weights(generator, role="generator", path=FlowMatchingPath(parameterisation=Noise(), **trained))
    for other in ({"shift": 3.0}, {"levels": [0.2]}):
        with pytest.raises(UserError, match="made on the path FlowMatchingPath"):
            load_weights(generator, role="generator", path=FlowMatchingPath(parameterisation=Noise(), **other))


def test_an_official_teacher_predicts_velocities_and_serves_nothing_else(tmp_path):
    torch.save({"net_model": mlp([3]).state_dict(), "ema_models": {}}, tmp_path / "official.pt")
    for path in (FlowMatchingPath(), FlowMatchingPath(times=LogitNormal(), shift=3.0)):
        load_weights(tmp_path / "official.pt", role="teacher", path=path)
    for path in (DiffusionPath(), FlowMatchingPath(CosineSchedule())):
        with pytest.raises(UserError, match=r"made on the path FlowMatchingPath\(schedule=LinearSchedule"):
            load_weights(tmp_path / "official.pt", role="teacher", path=path)


def test_tied_weights_are_exported_and_come_back_tied(tmp_path):
    module = RealUIDModule(Tied(), None, ema=[0.5])
    file = saved(module, tmp_path / "tied.ckpt")
    export_generator(file, tmp_path / "tied.safetensors", ema=0.5)
    z = torch.randn(4, 3)
    for loaded in (load_generator(file, 0.5), load_generator(tmp_path / "tied.safetensors")):
        assert loaded.network.last.weight is loaded.network.first.weight
        assert torch.equal(loaded(z), module.ema[0.5].network(z))


def test_a_teacher_with_tied_weights_is_loaded_and_stays_tied(tmp_path):
    teacher = TeacherModule(Tied(), ema=[0.5])
    file = saved(teacher, tmp_path / "teacher.ckpt")
    torch.save(teacher.network.state_dict(), tmp_path / "bare.pt")
    for name, ema in ((file, None), (file, 0.5), (tmp_path / "bare.pt", None)):
        module = RealUIDModule(Tied(), str(name), teacher_ema=ema, ema=[0.5])
        module.start()
        for network in (module.teacher.network, module.fake, module.generator.network, module.ema[0.5].network.network):
            assert network.last.weight is network.first.weight
            assert torch.equal(network.first.weight, teacher.network.first.weight)


def test_different_values_for_tied_weights_are_refused(tmp_path):
    state = copy.deepcopy(Tied().state_dict())
    state["last.weight"] = state["first.weight"] + 1
    torch.save(state, tmp_path / "untied.pt")
    module = RealUIDModule(Tied(), str(tmp_path / "untied.pt"))
    with pytest.raises(UserError, match=r"1 of 4 tied.*: last.weight differs from first.weight"):
        module.start()
