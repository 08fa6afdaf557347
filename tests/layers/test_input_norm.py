"""InputNorm: exact over the whole set whatever the batches are, learned online, saved, never blown up."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.layer import LayerContract
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d, InputNorm, use_mask

SHAPES = [  # shape of a batch, dim
    pytest.param((6, 3), 1, id="rows"),
    pytest.param((6, 3, 5), 1, id="sequences, channels second"),
    pytest.param((6, 3, 4, 5), 1, id="images"),
    pytest.param((6, 5, 3), -1, id="sequences, features last"),
    pytest.param((6, 5, 3), 2, id="the same axis from the front"),
]


def raw(seed: int = 0, rows: int = 201) -> np.ndarray:
    """Features at mean 1e3 and std 0.1, 1e6 and 1, 0 and 1e-9, and sorted by class."""
    r = np.random.default_rng(seed)
    columns = [r.normal(1e3, 0.1, rows), r.normal(1e6, 1.0, rows), r.normal(0, 1e-9, rows)]
    return np.stack([*columns, np.repeat([-5.0, 0.0, 5.0], rows // 3) + r.normal(0, 0.1, rows)], 1)


def batched(x: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    yield from x.split(sizes)


class Learned(LayerContract):
    """What every layer must do, learned online; what differs is tested below."""

    layer = InputNorm
    test_repr_names_the_class_and_its_settings = None
    test_refuses_what_does_not_fit = None


class TestRows(Learned):
    pass


class TestImages(Learned):
    space = (4, 3)


# Fitted.


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([201], id="one batch"),
        pytest.param([2] * 100 + [1], id="pairs of one class each, a tail of 1"),
        pytest.param([199, 2], id="a tail of 2"),
        pytest.param([1] * 201, id="single rows, without a variance of their own"),
        pytest.param([0, 100, 0, 101], id="empty batches"),
    ],
)
def test_fit_is_exact_whatever_the_batches(sizes):
    x = raw()
    layer = InputNorm(4, dtype=torch.float64).fit(batched(torch.tensor(x), sizes))
    mean = (layer.running_mean + layer.running_mean_low).numpy()
    assert (np.abs(mean - x.mean(0)) <= 4e-16 * np.abs(x).max(0)).all()
    np.testing.assert_allclose(layer.running_var, x.var(0), rtol=1e-10)
    y = layer(torch.tensor(x)).numpy()
    np.testing.assert_allclose(y, (x - x.mean(0)) / x.std(0), rtol=1e-8, atol=1e-9)


def test_float32_inputs_far_from_zero_are_standardised_exactly():
    x = torch.tensor(raw()).float()
    wide = x.double().numpy()
    layer = InputNorm(4).fit(x.split(7))
    assert layer.running_mean.dtype == torch.float32
    y = layer(x)
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / wide.std(0), atol=2e-6, rtol=2e-6)


@given(cuts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_cuts_do_not_matter(cuts, seed):
    x = torch.tensor(raw(seed, 42))
    edges = [0, *sorted(cuts), 42]
    parts = [x[a:b] for a, b in pairwise(edges)]
    layer = InputNorm(4, dtype=torch.float64).fit(parts)
    np.testing.assert_allclose(layer.running_var, x.numpy().var(0), rtol=1e-9)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_fit_of_every_shape(shape, dim):
    x = 7 + 3 * torch.randn(shape, dtype=torch.float64)
    layer = InputNorm(3, dim=dim, dtype=torch.float64).fit(x.split(4))
    rows = x.movedim(dim, -1).reshape(-1, 3)
    expected = ((x.movedim(dim, -1) - rows.mean(0)) / rows.std(0, correction=0)).movedim(-1, dim)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x), expected)


def test_every_structure_of_batches():
    x, label = torch.tensor(raw()), torch.zeros(201)
    expected = InputNorm(4).fit(x).state_dict()
    loader = DataLoader(TensorDataset(x, label), batch_size=50)
    ways = {
        "tuples": InputNorm(4).fit(loader),
        "an index": InputNorm(4).fit([(label, x)], select=1),
        "a key": InputNorm(4).fit([{"x": x[:7]}, {"x": x[7:]}], select="x"),
        "a function": InputNorm(4).fit([{"in": {"x": x}}], select=lambda batch: batch["in"]["x"]),
        "an iterator": InputNorm(4).fit(iter(x.split(11))),
    }
    for way, layer in ways.items():
        torch.testing.assert_close(layer.running_mean, expected["running_mean"], msg=way)
        torch.testing.assert_close(layer.running_var, expected["running_var"], msg=way)


def test_mask_keeps_padding_out_of_the_fit_and_of_the_output():
    lengths = torch.tensor([[5], [2], [4]])
    mask = torch.arange(5) < lengths
    x = torch.randn(3, 5, 2, dtype=torch.float64) + 10
    x[~mask] = torch.nan
    layer = InputNorm(2, dim=-1, dtype=torch.float64).fit([{"x": x, "m": mask}], select="x", mask="m")
    np.testing.assert_allclose(layer.running_var, x[mask].numpy().var(0), rtol=1e-12)
    y = layer(x, mask)
    assert (y[~mask] == 0).all()
    torch.testing.assert_close(y[mask].var(0, correction=0), torch.ones(2, dtype=torch.float64))
    with use_mask(layer, mask.long()):
        assert torch.equal(layer(x), y)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool], ids=str)
def test_integers_are_converted(dtype):
    x = torch.randint(0, 100, (50, 2))
    x = x > 50 if dtype == torch.bool else x.to(dtype)
    layer = InputNorm(2).fit(x)
    y = layer(x)
    assert y.dtype == torch.float32
    wide = x.double()
    torch.testing.assert_close(
        y.double(), (wide - wide.mean(0)) / wide.std(0, correction=0), atol=1e-6, rtol=1e-6
    )
    assert InputNorm(2)(x).dtype == torch.float32


def test_time_stamps_keep_their_seconds():
    x = 1_700_000_000 + torch.arange(100)[:, None]  # float32 knows them to 128 s
    y = InputNorm(1).fit(x)(x)
    expected = (torch.arange(100.0)[:, None] - 49.5) / torch.arange(100.0).std(correction=0)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.1, 1e6 + 0.1, -3e8])
@pytest.mark.parametrize("fitted", [True, False])
def test_constant_features_do_not_blow_up(constant, fitted):
    x = torch.cat([torch.full((64, 1), constant), torch.randn(64, 1)], 1)
    layer = InputNorm(2)
    if fitted:
        layer.fit(x.split(10))
    else:
        for batch in x.split(16):
            assert layer(batch)[:, 0].abs().max() < 1, "in training"
    layer.eval()
    assert layer(x)[:, 0].abs().max() <= 1e-6 * abs(constant)
    unseen = torch.tensor([[constant + 64.0, 0.0]])
    assert layer(unseen)[0, 0] == pytest.approx(64.0, rel=1e-3)


def test_fitted_statistics_stay():
    x = torch.randn(20, 3)
    layer = InputNorm(3).fit(x)
    before = copy.deepcopy(layer.state_dict())
    layer.train()(x * 100)
    assert layer.policy.normalize_with == "running"
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(layer(x), layer.eval()(x))


def test_reset_forgets_the_fit():
    layer = InputNorm(3).fit(100 + torch.randn(20, 3))
    layer.reset_running_stats()
    assert not layer.fitted
    assert layer.train().policy.normalize_with == "batch"
    for name, value in InputNorm(3).state_dict().items():
        assert torch.equal(value, layer.state_dict()[name]), name


def test_gradient_of_a_fitted_layer_is_one_over_sigma():
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    layer = InputNorm(2, dtype=torch.float64).fit(5 * torch.randn(30, 2))
    assert torch.autograd.gradcheck(layer, (x,))
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, layer.running_var.rsqrt().expand(8, 2))


# Learned online.


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_online_is_batch_norm_without_affine(shape, dim):
    ours = InputNorm(3, dim=dim, eps=1e-5, momentum=0.1)
    theirs = nn.BatchNorm1d(3, affine=False)
    for mode in (True, True, False):
        ours.train(mode)
        theirs.train(mode)
        x = 2 + torch.randn(shape)
        expected = theirs(x.movedim(dim, 1).flatten(2) if x.ndim > 2 else x)
        torch.testing.assert_close(
            ours(x).movedim(dim, 1).reshape(expected.shape), expected, atol=2e-5, rtol=1e-5
        )
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == 2


def test_online_average_is_cumulative_by_default():
    layer = InputNorm(1)
    for value in (1.0, 2.0, 6.0):
        layer(torch.tensor([[value - 1], [value + 1]]))
    assert layer.running_mean.item() == pytest.approx(3.0)
    assert layer.running_var.item() == pytest.approx(2.0)


def test_online_gradients():
    layer = InputNorm(2, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_online_mask_and_weights_reach_the_statistics():
    x = torch.randn(4, 6, 2)
    mask = torch.arange(6) < torch.tensor([[6], [3], [2], [4]])
    layer = InputNorm(2, dim=-1)
    layer(x, mask)
    torch.testing.assert_close(layer.running_mean, x[mask].mean(0))
    weighted = InputNorm(2, dim=-1)
    weighted(x, sample_weight=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(weighted.running_mean, x[[0, 3]].mean((0, 1)))


# Saved and moved.


@pytest.mark.parametrize("source_fitted", [True, False])
@pytest.mark.parametrize("target_fitted", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_state_round_trip_is_strict_both_ways(source_fitted, target_fitted, assign):
    def made(fitted: bool) -> InputNorm:
        layer = InputNorm(2)
        x = 1e5 + torch.randn(30, 2)
        return layer.fit(x) if fitted else (layer(x), layer)[1]

    source, target = made(source_fitted), made(target_fitted)
    target.load_state_dict(copy.deepcopy(source.state_dict()), assign=assign)
    x = 1e5 + torch.randn(9, 2)
    assert target.policy == source.policy
    assert torch.equal(target(x), source(x))
    assert torch.equal(target.eval()(x), source.eval()(x))
    assert bool(target.fitted) == source_fitted


def test_file_round_trip(tmp_path):
    layer = nn.Sequential(InputNorm(2).fit(50 + torch.randn(30, 2)), nn.Linear(2, 1))
    torch.save(layer.state_dict(), tmp_path / "model.pt")
    other = nn.Sequential(InputNorm(2), nn.Linear(2, 1))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = torch.randn(4, 2)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_know_that_they_are_fitted(copied):
    layer = InputNorm(2).fit(torch.randn(30, 2))
    twin = copied(layer)
    x = torch.randn(4, 2)
    assert twin.policy == layer.policy
    assert torch.equal(twin(x), layer(x))


def test_half_precision_keeps_the_statistics():
    x = torch.tensor([[1000.0, 0.5], [1002.0, 0.25], [1004.0, 1.0]])
    layer = InputNorm(2).fit(x)
    expected = layer(x)
    for cast in (layer.half(), layer.bfloat16()):
        assert {t.dtype for t in (cast.running_mean, cast.running_mean_low, cast.running_var)} == {
            torch.float32
        }
        assert torch.equal(cast(x), expected)
    y = layer(x.half())
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, atol=1e-3, rtol=1e-3)


def test_casts_keep_the_sum_of_mean_and_rest():
    x = 1e8 + torch.randn(50, 1, dtype=torch.float64)
    layer = InputNorm(1).fit(x)
    expected = layer(x)
    for cast in (layer.double(), layer.float()):
        torch.testing.assert_close(cast(x), expected, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(
            cast.running_mean.double() + cast.running_mean_low.double(), x.mean(0), rtol=1e-14
        )
    fitted_wide = InputNorm(1, dtype=torch.float64).fit(x).float()
    torch.testing.assert_close(fitted_wide(x), expected, atol=1e-6, rtol=1e-6)


def test_meta_device_and_back():
    state = InputNorm(2).fit(torch.randn(30, 2)).state_dict()
    layer = InputNorm(2, device="meta").to_empty(device="cpu")
    layer.load_state_dict(state)
    assert layer.policy.normalize_with == "running"
    assigned = InputNorm(2, device="meta")
    assigned.load_state_dict(state, assign=True)
    assert assigned(torch.randn(3, 2)).isfinite().all()


def test_repr_says_how_the_statistics_come_about():
    assert repr(InputNorm(3, dim=-1)) == "InputNorm(3, dim=-1, eps=1e-12, momentum=None)"
    assert repr(InputNorm(3).fit(torch.randn(5, 3))) == "InputNorm(3, dim=1, fitted)"
    assert repr(InputNorm(3, ghost_batch_size=4)).endswith("momentum=None, ghost_batch_size=4)")


def test_channels_last_is_kept():
    x = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    assert InputNorm(3).fit(x)(x).is_contiguous(memory_format=torch.channels_last)


def test_torch_leaves_it_alone():
    model = nn.Sequential(InputNorm(2), nn.Linear(2, 2), BatchNorm1d(2))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(model)[0], InputNorm)
    model[0].qconfig = "something"  # torch's quantisation leaves layers alone whose class it does not know
    assert model[0].qconfig == "something"


# Bad input.


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ([], {}, "at least one batch"),
        ([torch.empty(0, 2)], {}, "at least one batch"),
        ([torch.ones(3, 5)], {}, r"batch 0: .*2 features along dim=1, got shape \(3, 5\)"),
        ([torch.ones(3, 2), torch.ones(3)], {}, "batch 1"),
        ([torch.tensor([[1.0, 2.0], [3.0, torch.nan]])], {}, r"feature 1 \(1 times\)"),
        ([torch.ones(3, 2), torch.full((3, 2), torch.inf)], {}, r"batch 1: .*feature 0 \(3 times\), 1 \(3"),
        ([torch.ones(3, 2, dtype=torch.complex64)], {}, "real values"),
        ([{"x": torch.ones(3, 2)}], {}, r"keys \['x'\].*say what of a batch"),
        ([{"x": torch.ones(3, 2)}], {"select": "y"}, r"'y' in it, got a dict with the keys \['x'\]"),
        ([(torch.ones(3, 2),)], {"select": 1}, "1 in it, got a tuple of 1"),
        ([torch.ones(3, 2)], {"select": lambda batch: 5}, "expected a tensor, got a int"),
        ([(torch.ones(3, 2), torch.ones(3, 2).bool())], {"mask": 1}, "mask: expected shape"),
    ],
)
def test_what_cannot_be_fitted_is_said_and_changes_nothing(data, options, said):
    model = nn.Sequential(InputNorm(2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=said) as raised:
        model[0].fit(data, **options)
    assert "Sequential.0.fit" in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].policy.normalize_with == "batch"


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.ones(3), r"got shape \(3,\)"),
        (torch.ones(3, 3), "2 features along dim=1"),
        (torch.ones(3, 2, dtype=torch.complex64), "real values"),
        (torch.ones(1, 2), "more than one value"),
    ],
)
def test_what_cannot_be_normalised_is_said_and_changes_nothing(x, said):
    model = nn.Sequential(InputNorm(2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=said) as raised:
        model(x)
    assert "Sequential.0" in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dim", [0, True])
def test_the_batch_is_no_feature_axis(dim):
    with pytest.raises(InputError, match="axis of the features"):
        InputNorm(2, dim=dim)


# Compiled.


@pytest.mark.compiles
@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_break(fitted, training):
    layer = InputNorm(3, dim=-1)
    if fitted:
        layer.fit(5 + torch.randn(20, 4, 3))
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer.train(training), fullgraph=True, backend="aot_eager")
    x = 5 + torch.randn(6, 4, 3)
    torch.testing.assert_close(compiled(x), twin.train(training)(x))
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value)


@pytest.mark.compiles
@pytest.mark.parametrize("kind", [InputNorm, BatchNorm1d])
def test_compiles_for_batches_that_change(kind):
    torch._dynamo.reset()
    layer = kind(3)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for rows in (8, 6, 5, 2):  # from the second on, the compiler keeps the batch size symbolic
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), twin(x))
    torch.testing.assert_close(layer.running_var, twin.running_var)


@pytest.mark.compiles
def test_exports():
    layer = InputNorm(3).fit(5 + torch.randn(20, 3)).eval()
    x = torch.randn(4, 3)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x))
