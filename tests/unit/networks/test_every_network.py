"""What every network must do, whatever its architecture."""

import copy

import pytest
import torch
from small_networks import MAKERS, UNETS, WITH_NULL_LABEL, Maker, dit, each, gradients, inputs, ncsnpp, small

from realuid_lightning.errors import UserError
from realuid_lightning.networks import HeadedNetwork, unconditional
from realuid_lightning.recorded import rebuild


@each(MAKERS)
def test_output_starts_at_zero_and_every_weight_gets_a_gradient(make: Maker) -> None:
    torch.manual_seed(0)
    network = make()
    output = network(*inputs(network))
    assert output.shape == (4, *network.shape)
    assert not output.any()
    assert all(gradient is not None and gradient.any() for gradient in gradients(small(make)).values())


@each(MAKERS)
def test_a_network_without_classes_takes_no_labels(make: Maker) -> None:
    network = small(make, num_classes=None)
    t, x, y = inputs(network)
    assert (network.num_classes, y) == (None, None)
    assert network(t, x).shape == (4, *network.shape)


@each(MAKERS)
def test_time_and_label_act_on_their_own_sample_alone(make: Maker) -> None:
    network = small(make).eval()
    t, x, y = inputs(network)
    outputs = [network(t, x, y), network(t / 2, x, y), network(t, x, y + 1)]
    assert torch.equal(network(t, x, y), outputs[0])
    assert all(not torch.allclose(outputs[i], outputs[j]) for i in range(3) for j in range(i))
    torch.testing.assert_close(outputs[0][1:2], network(t[1:2], x[1:2], y[1:2]), atol=1e-4, rtol=1e-4)


@each(WITH_NULL_LABEL)
def test_no_label_is_a_label_of_its_own(make: Maker) -> None:
    network = small(make).eval()
    t, x, y = inputs(network)
    without = network(t, x, torch.full_like(y, network.num_classes))
    assert all(not torch.allclose(network(t, x, y + i), without) for i in range(2))


@each(MAKERS)
def test_the_label_for_none_is_told(make: Maker) -> None:
    options = {} if make in WITH_NULL_LABEL else {"null_label": True}
    network, (t, x, y) = small(make, **options).eval(), inputs(make())
    without = unconditional(network, y)
    assert (without == network.num_classes).all()
    assert not torch.allclose(network(t, x, y), network(t, x, without))
    if options:
        with pytest.raises(UserError, match="set its null_label: true"):
            unconditional(make(), y)
    with pytest.raises(UserError, match="has no classes"):
        unconditional(make(num_classes=None), y)


@each([make for make in MAKERS if make is not dit])
def test_dropout_acts_in_training_alone(make: Maker) -> None:
    network = small(make, dropout=0.5)
    arguments = inputs(network)
    assert not torch.allclose(network(*arguments), network.eval()(*arguments))


@each(MAKERS)
def test_record_rebuilds_the_same_architecture(make: Maker) -> None:
    options = {"null_label": False} if make is dit else {"dropout": 0.2, "num_classes": 3}
    if make in UNETS:
        options["channel_mult"] = (1, 2)
    network = make(condition_channels=2, **options)
    twin = rebuild(network.recorded(), type(network))
    twin.load_state_dict(network.state_dict())
    assert twin.recorded() == network.recorded()
    assert twin.shape == network.shape


@pytest.mark.parametrize("way", ["cheap", True])
@pytest.mark.parametrize(
    ("make", "options"), [(dit, {}), *((make, {"dropout": dropout}) for make in UNETS for dropout in (0.0, 0.3))]
)
def test_recomputation_changes_no_bit(make: Maker, options: dict[str, float], way: bool | str) -> None:
    plain, recomputed = gradients(small(make, **options)), gradients(small(make, checkpoint=way, **options))
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


@each(MAKERS)
def test_precisions(make: Maker) -> None:
    network = small(make).eval()
    t, x, y = inputs(network)
    single = network(t, x, y)
    double = copy.deepcopy(network).double()(t.double(), x.double(), y)
    assert double.dtype == torch.float64
    assert (single - double).norm() < 1e-5 * double.norm()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(t, x, y)
    half = copy.deepcopy(network).bfloat16()(t, x.bfloat16(), y)
    assert (mixed.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for rough in (mixed, half.float()):
        assert (rough - single).norm() < 0.04 * single.norm()


@each(UNETS)
def test_channels_last_gives_equal_values_and_survives_every_block(make: Maker) -> None:
    network = small(make)
    layout = torch.channels_last
    twin = copy.deepcopy(network).eval().to(memory_format=layout)
    t, x, y = inputs(network)
    x = x.to(memory_format=layout)
    encoding = twin.encode(t, x, y)
    for h in (encoding.middle, *encoding.skips, twin.decode(encoding)):
        assert h.is_contiguous(memory_format=layout)
    torch.testing.assert_close(twin(t, x, y), network.eval()(t, x, y), atol=1e-4, rtol=1e-4)


@each(MAKERS)
def test_encode_and_decode_make_up_forward(make: Maker) -> None:
    network = small(make).double().eval()
    t, x, y = inputs(network)
    t, x = t.double(), x.double()
    encoding = network.encode(t, x, y)
    assert encoding.middle.shape == (4, *network.middle_shape)
    assert network.middle_shape[0] == network.middle_channels
    assert torch.equal(network.decode(encoding), network(t, x, y))
    part = encoding.rows(slice(1, 3))
    torch.testing.assert_close(part, network.encode(t[1:3], x[1:3], y[1:3]))
    torch.testing.assert_close(network.decode(part), network(t, x, y)[1:3])


@each(MAKERS)
def test_inputs_that_do_not_fit_are_refused(make: Maker) -> None:
    network = make()
    t, x, y = inputs(network)
    shape = ", ".join(map(str, network.shape))
    with pytest.raises(UserError, match=rf"x must have shape \(batch, {shape}\), got \(4, "):
        network(t, x[..., :1], y)
    with pytest.raises(UserError, match=r"t must have shape \(4,\), one time a sample, got \(1,\)"):
        network(t[:1], x, y)
    with pytest.raises(UserError, match="y must hold labels, for the network has 10 classes"):
        network(t, x)
    with pytest.raises(UserError, match=r"y must have shape \(4,\)"):
        network(t, x, y[:2])
    with pytest.raises(UserError, match="y must be None"):
        make(num_classes=None)(t, x, y)


@each(MAKERS)
def test_conditions_are_further_channels(make: Maker) -> None:
    network = small(make, condition_channels=2).eval()
    t, x, y = inputs(network)
    channels = network.shape[0]
    output = network(t, x, y)
    assert output.shape == (4, *network.shape)
    assert network.condition_channels == 2
    x = x.clone()
    x[:, channels:] += 1
    assert not torch.allclose(network(t, x, y), output)
    with pytest.raises(UserError, match=rf"\({channels} of the sample, then 2 of the condition\), got \(4, {channels}"):
        network(t, x[:, :channels], y)


@each(MAKERS)
def test_no_condition_changes_nothing(make: Maker) -> None:
    plain, same, conditioned = (
        small(make, **options).state_dict() for options in ({}, {"condition_channels": 0}, {"condition_channels": 2})
    )
    assert all(torch.equal(value, plain[name]) for name, value in same.items())
    assert conditioned.keys() == plain.keys() == same.keys()
    wider = [name for name in plain if plain[name].shape != conditioned[name].shape]
    assert len(wider) == (2 if make is ncsnpp else 1)  # which shows its decoder the input a second time


@each(MAKERS)
def test_a_head_sits_on_the_middle(make: Maker) -> None:
    network = small(make, num_classes=None).eval()
    t, x, _ = inputs(network)
    prediction, logits = HeadedNetwork(network)(t, x, judged=1)
    torch.testing.assert_close(prediction, network(t, x)[:3], atol=1e-4, rtol=1e-4)
    assert logits.shape == (1,)
