"""Batch-normalized LSTM and GRU against torch's, and against a slow oracle in float64 that knows no padding."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from normsmith.errors import InputError
from normsmith.layers import BatchNormGRU, BatchNormLSTM, accumulate, use_mask
from normsmith.layers.recurrent import RecurrentBase

LAYERS = [BatchNormLSTM, BatchNormGRU]
TORCHS = {BatchNormLSTM: nn.LSTM, BatchNormGRU: nn.GRU}
LENGTHS = [5, 2, 4, 1, 3]

both = pytest.mark.parametrize("cls", LAYERS)


# The oracle: sequences of their own lengths, one step after the other, moments by their definition.


class OracleNorm:
    def __init__(self, norm: nn.Module) -> None:
        self.per_step = norm.running_mean.ndim == 2
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
        self.updates: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, values: list[Tensor], step: int) -> list[Tensor]:
        x = torch.stack(values)
        row = min(step, len(self.mean) - 1)
        mean, var = (self.mean[row], self.var[row]) if self.per_step else (self.mean, self.var)
        if len(x) > 1:
            mean, var = x.mean(0), x.var(0, correction=0)
            self.updates.setdefault(row, []).append((mean.detach(), x.var(0).detach()))
        y = (x - mean) / (var + self.eps).sqrt() * self.weight
        return list(y if self.bias is None else y + self.bias)

    def running(self, momentum: float = 0.1) -> tuple[Tensor, Tensor]:
        for row, found in self.updates.items():
            mean, var = (torch.stack(values).mean(0) for values in zip(*found, strict=True))
            into = (self.mean[row], self.var[row]) if self.per_step else (self.mean, self.var)
            into[0].lerp_(mean, momentum)
            into[1].lerp_(var, momentum)
        return self.mean, self.var


def oracle_cell(cell: nn.Module, xs: list[Tensor], norms: dict[str, OracleNorm]) -> list[Tensor]:
    """Outputs of each sequence by one cell; `norms` receive the updates."""
    for name, norm in cell.named_children():
        norms[name] = OracleNorm(norm)
    size = cell.hidden_size
    h = [x.new_zeros(size) for x in xs]
    c = [x.new_zeros(size) for x in xs]
    outputs: list[list[Tensor]] = [[] for _ in xs]
    products = [x @ cell.weight_ih.T for x in xs]
    bias = 0 if cell.bias is None else cell.bias
    whole = None
    if not norms["norm_ih"].per_step:
        whole = norms["norm_ih"]([p for product in products for p in product], 0)
        parts = iter(whole)
        whole = [[next(parts) for _ in product] for product in products]
    for step in range(max(map(len, xs))):
        alive = [b for b, x in enumerate(xs) if len(x) > step]
        if whole is None:
            ih = norms["norm_ih"]([products[b][step] for b in alive], step)
        else:
            ih = [whole[b][step] for b in alive]
        hh = [cell.weight_hh @ h[b] for b in alive]
        if "norm_hh" in norms:
            hh = norms["norm_hh"](hh, step)
        if cell.states == 2:
            for b, left, right in zip(alive, ih, hh, strict=True):
                i, f, g, o = (left + right + bias).chunk(4)
                c[b] = f.sigmoid() * c[b] + i.sigmoid() * g.tanh()
                h[b] = o.sigmoid()
            shown = [c[b] for b in alive]
            if "norm_c" in norms:
                shown = norms["norm_c"](shown, step)
            for b, value in zip(alive, shown, strict=True):
                h[b] = h[b] * value.tanh()
        else:
            for b, left, right in zip(alive, ih, hh, strict=True):
                (r, z, n), (hr, hz, hn) = (left + bias).chunk(3), right.chunk(3)
                r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
                h[b] = (1 - z) * (n + r * hn).tanh() + z * h[b]
        for b in alive:
            outputs[b].append(h[b])
    return [torch.stack(output) for output in outputs]


def oracle(layer: RecurrentBase, xs: list[Tensor]) -> tuple[list[Tensor], dict[str, OracleNorm]]:
    """Outputs of each sequence, and the norms by their path."""
    norms: dict[str, OracleNorm] = {}
    for number in range(layer.num_layers):
        directions = []
        for suffix in ["", "_reverse"][: 2 if layer.bidirectional else 1]:
            name = f"l{number}{suffix}"
            own: dict[str, OracleNorm] = {}
            turned = [x.flip(0) if suffix else x for x in xs]
            found = oracle_cell(layer.get_submodule(name), turned, own)
            directions.append([x.flip(0) if suffix else x for x in found])
            norms |= {f"{name}.{key}": norm for key, norm in own.items()}
        xs = [torch.cat(parts, dim=1) for parts in zip(*directions, strict=True)]
    return xs, norms


def padded(xs: list[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sequences as (time, batch, features), and their mask (time, batch)."""
    x = nn.utils.rnn.pad_sequence(xs, padding_value=value)
    return x, torch.arange(len(x)).unsqueeze(1) < torch.tensor([len(x) for x in xs])


def draw(features: int = 3, lengths: list[int] = LENGTHS) -> list[Tensor]:
    return [torch.randn(length, features, dtype=torch.float64, requires_grad=True) for length in lengths]


def lively(layer: RecurrentBase) -> RecurrentBase:
    """Weights, γ, β and running statistics that are not their initial values."""
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.5)
    for name, buffer in layer.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return layer


@both
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},  # sequences turn around within their lengths
        {"max_steps": 2, "bias": False},  # steps 1 to 4 share a row
        {"max_steps": 1},  # all steps share one
        {"normalize": "input", "bidirectional": True},
    ],
    ids=["plain", "deep", "late", "one-row", "input"],
)
@pytest.mark.parametrize("form", ["mask", "left", "holes", "packed"])
def test_padding_and_packing_equal_unpadded_sequences(
    cls: type[RecurrentBase], options: dict[str, object], form: str
) -> None:
    layer = lively(cls(3, 4, dtype=torch.float64, **options))
    xs = draw()
    expected, norms = oracle(layer, xs)
    upstream = [torch.randn_like(y) for y in expected]
    loss = sum((y * g).sum() for y, g in zip(expected, upstream, strict=True))
    wanted = torch.autograd.grad(loss, [*xs, *layer.parameters()])

    if form == "packed":
        packed = nn.utils.rnn.pack_sequence(xs, enforce_sorted=False)
        output, states = layer(packed)
        assert isinstance(output, PackedSequence)
        got, _ = pad_packed_sequence(output)
        ys = [got[: len(x), b] for b, x in enumerate(xs)]
    else:
        x, mask = padded(xs, value=float("nan"))
        place = torch.arange(len(x)).unsqueeze(1).expand(mask.shape)
        if form == "left":
            place = torch.stack([torch.arange(len(x)).roll(-len(own)) for own in xs], 1)
        elif form == "holes":
            place = torch.stack([torch.randperm(len(x)) for _ in xs], 1)
            keep = mask.gather(0, place)
            # shuffle where the steps are, not their order
            place = place.clone()
            for b in range(len(xs)):
                place[keep[:, b], b] = torch.arange(len(xs[b]))
        x = x.gather(0, place.unsqueeze(2).expand_as(x))
        mask = mask.gather(0, place)
        output, states = layer(x, mask=mask)
        assert (output[~mask] == 0).all()
        ys = [output[mask[:, b], b] for b in range(len(xs))]
    for y, e in zip(ys, expected, strict=True):
        torch.testing.assert_close(y, e, rtol=1e-10, atol=1e-10)
    loss = sum((y * g).sum() for y, g in zip(ys, upstream, strict=True))
    for found, e in zip(torch.autograd.grad(loss, [*xs, *layer.parameters()]), wanted, strict=True):
        torch.testing.assert_close(found, e, rtol=1e-9, atol=1e-9)
    for name, norm in norms.items():
        mean, var = norm.running()
        torch.testing.assert_close(layer.get_submodule(name).running_mean, mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer.get_submodule(name).running_var, var, rtol=1e-10, atol=1e-10)
    h = states[0] if cls is BatchNormLSTM else states
    width = h.shape[2]
    last = torch.stack([e[-1, :width] for e in expected])
    torch.testing.assert_close(h[-2 if layer.bidirectional else -1], last, rtol=1e-10, atol=1e-10)


# Torch's own networks, where the norms do nothing.


def as_identity(layer: RecurrentBase, torchs: nn.RNNBase) -> None:
    """Torch's weights, and norms that in evaluation change nothing."""
    for key, cell in layer.named_children():
        suffix = key.removeprefix("l")
        cell.weight_ih.data = getattr(torchs, f"weight_ih_l{suffix}").data.clone()
        cell.weight_hh.data = getattr(torchs, f"weight_hh_l{suffix}").data.clone()
        if cell.bias is not None:
            b_hh = getattr(torchs, f"bias_hh_l{suffix}").data
            if cell.states == 1:
                b_hh[2 * cell.hidden_size :] = 0  # inside of r·(…) torch has a bias, the formula has none
            cell.bias.data = getattr(torchs, f"bias_ih_l{suffix}").data + b_hh
        for norm in cell.children():
            norm.eps = 1e-12
            nn.init.ones_(norm.weight)


@both
@pytest.mark.parametrize("normalize", ["all", "input"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"num_layers": 3, "batch_first": True, "bias": False},
        {"bidirectional": True, "batch_first": True},
    ],
    ids=["plain", "deep", "batch-first", "bidirectional"],
)
@pytest.mark.parametrize("form", ["tensor", "packed", "sorted", "unbatched"])
def test_with_idle_norms_it_is_torchs(
    cls: type[RecurrentBase], normalize: str, options: dict[str, object], form: str
) -> None:
    theirs, ours = TORCHS[cls](3, 4, **options), cls(3, 4, normalize=normalize, **options)
    as_identity(ours, theirs)
    ours.eval()
    batch_first = ours.batch_first
    x = torch.randn(5, 4, 3) if batch_first else torch.randn(4, 5, 3)
    h = torch.randn(ours.num_layers * ours.directions, 5, 4)
    lengths = [4, 1, 3, 2, 4] if form == "packed" else [4, 3, 3, 2, 1]
    given: Tensor | PackedSequence = x
    if form in {"packed", "sorted"}:
        given = pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=form == "sorted"
        )
    elif form == "unbatched":
        given, h = (x[0] if batch_first else x[:, 0]), h[:, 0]
    for hx in (None, h if cls is BatchNormGRU else (h, h.cos())):
        expected, got = theirs(given, hx), ours(given, hx)
        if isinstance(expected[0], PackedSequence):
            assert isinstance(got[0], PackedSequence)
            torch.testing.assert_close(got[0].data, expected[0].data, rtol=1e-5, atol=1e-5)
            for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
                mine, other = getattr(got[0], name), getattr(expected[0], name)
                assert (mine is None and other is None) or torch.equal(mine, other)
        else:
            torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-5)


# Statistics.


@both
def test_gamma_starts_as_asked_and_products_have_no_beta(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    assert all((norm.weight == 0.1).all() for norm in layer._norms())
    assert layer.l0.norm_ih.bias is None
    assert layer.l0.norm_hh.bias is None
    if cls is BatchNormLSTM:
        assert (layer.l0.norm_c.bias == 0).all()
    nn.init.zeros_(layer.l0.norm_hh.weight)
    layer(torch.randn(2, 5, 3))
    layer.reset_parameters()
    assert (layer.l0.norm_hh.weight == 0.1).all()
    assert (layer.l0.norm_hh.num_batches_tracked == 0).all()
    assert (cls(3, 4, gamma=1.0, normalize="input").l0.norm_ih.weight == 1).all()


@both
def test_steps_that_one_sequence_reaches_go_by_running_statistics(cls: type[RecurrentBase]) -> None:
    """With sequences of 5 to 50 steps, most batches of 32 end with a single running sequence."""
    layer = cls(3, 8, max_steps=60)
    alone = 0
    for _ in range(3):
        lengths = torch.randint(5, 51, (32,))
        alone += int(lengths.sort().values[-2] < lengths.max())
        mask = torch.arange(int(lengths.max())).unsqueeze(1) < lengths
        output, _ = layer(torch.randn(*mask.shape, 3), mask=mask)
        layer.zero_grad()
        output.square().sum().backward()
        assert output.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert alone > 0
    assert layer.l0.norm_hh.num_batches_tracked[0] == 3
    assert layer.l0.norm_hh.num_batches_tracked[50:].sum() == 0


@both
def test_rows_without_updates_lend_those_of_the_nearest_earlier_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, momentum=1.0)
    layer(torch.randn(4, 8, 3) + 5)
    layer.eval()
    x = torch.randn(6, 8, 3)
    output, _ = layer(x)
    filled = copy.deepcopy(layer)
    for norm in filled._norms():
        norm.running_mean[4:], norm.running_var[4:] = norm.running_mean[3], norm.running_var[3]
        norm.num_batches_tracked.fill_(1)
    torch.testing.assert_close(output, filled(x)[0])


@both
def test_momentum_none_is_the_average_of_each_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, momentum=None, max_steps=3)
    xs = [torch.randn(steps, 8, 3) for steps in (2, 5, 3)]
    products = []
    for x in xs:
        layer(x)
        products.append(x @ layer.l0.weight_ih.T)
    norm = layer.l0.norm_ih
    assert norm.num_batches_tracked.tolist() == [3, 3, 2]
    first = torch.stack([product[0].mean(0) for product in products]).mean(0)
    torch.testing.assert_close(norm.running_mean[0], first)
    last = torch.stack([products[1][2:].mean(1).mean(0), products[2][2].mean(0)]).mean(0)
    torch.testing.assert_close(norm.running_mean[2], last)
    variance = torch.stack([products[1][2:].var(1).mean(0), products[2][2].var(0)]).mean(0)
    torch.testing.assert_close(norm.running_var[2], variance)


@both
@pytest.mark.parametrize("cut", [1, 3])
def test_evaluation_in_parts_equals_the_whole(cls: type[RecurrentBase], cut: int) -> None:
    """`first_step` continues the statistics as `hx` continues the states."""
    layer = cls(3, 4, num_layers=2, max_steps=5)
    for _ in range(3):
        layer(torch.randn(7, 16, 3))
    layer.eval()
    x = torch.randn(7, 2, 3)
    whole, final = layer(x)
    head, states = layer(x[:cut])
    tail, states = layer(x[cut:], states, first_step=cut)
    torch.testing.assert_close(torch.cat([head, tail]), whole)
    torch.testing.assert_close(states, final)


def test_first_step_updates_its_rows() -> None:
    layer = BatchNormLSTM(3, 4, max_steps=4)
    layer(torch.randn(2, 8, 3), first_step=1)
    assert layer.l0.norm_c.num_batches_tracked.tolist() == [0, 1, 1, 0]
    layer(torch.randn(2, 8, 3), first_step=7)
    assert layer.l0.norm_c.num_batches_tracked.tolist() == [0, 1, 1, 1]
    assert (layer.l0.norm_ih.running_mean[0] == 0).all()


@both
def test_non_finite_steps_stay_out_of_the_running_statistics(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, bidirectional=True)
    x = torch.randn(3, 6, 3)
    x[2, 0] = float("inf")
    output, _ = layer(x)
    assert not output[2].isfinite().all()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    assert layer.l0.norm_ih.num_batches_tracked[:4].tolist() == [1, 1, 0, 0]
    propagating = cls(3, 4, on_nonfinite="propagate")
    propagating(x)
    assert not propagating.l0.norm_ih.running_mean.isfinite().all()


@both
def test_policy_freeze_and_evaluation(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    layer(torch.randn(3, 6, 3))
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, 6, 3)
    evaluated, _ = layer.eval()(x)
    frozen, _ = nn.Sequential(layer.freeze()).train()[0](x)
    assert layer.policy == ("running", False)
    torch.testing.assert_close(frozen, evaluated)
    layer.unfreeze().freeze("batch")
    trained, _ = layer(x)
    assert not torch.allclose(trained, evaluated)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key
    layer.unfreeze()(x)
    assert layer.l0.norm_hh.num_batches_tracked[0] == 2


@both
def test_accumulate_makes_one_update_of_each_step(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, dtype=torch.float64)
    parts = [torch.randn(steps, batch, 3, dtype=torch.float64) for steps, batch in ((4, 3), (2, 5))]
    with accumulate(layer):
        for part in parts:
            layer(part)
    norm = layer.l0.norm_ih
    assert norm.num_batches_tracked[:5].tolist() == [1, 1, 1, 1, 0]
    values = torch.cat([part[0] for part in parts]) @ layer.l0.weight_ih.T
    torch.testing.assert_close(norm.running_mean[0], 0.1 * values.mean(0))
    torch.testing.assert_close(norm.running_var[0], 0.9 + 0.1 * values.var(0))
    torch.testing.assert_close(norm.running_var[3], 0.9 + 0.1 * (parts[0][3] @ layer.l0.weight_ih.T).var(0))


@both
def test_use_mask_reaches_recurrent_layers(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, batch_first=True)
    net = nn.ModuleDict({"rnn": layer})
    x, mask = torch.randn(4, 5, 3), torch.arange(5) < torch.tensor([[5], [3], [4], [1]])
    expected, _ = copy.deepcopy(layer)(x, mask=mask)
    with use_mask(net, mask):
        got, _ = layer(x)
    torch.testing.assert_close(got, expected)


@both
@pytest.mark.parametrize("normalize", ["all", "input"])
@pytest.mark.parametrize("lengths", [[3, 3], [3, 2]])
def test_packed_sequences_go_by_their_lengths_within_use_mask(
    cls: type[RecurrentBase], normalize: str, lengths: list[int]
) -> None:
    layer = cls(3, 4, normalize=normalize)
    packed = nn.utils.rnn.pack_sequence([torch.randn(length, 3) for length in lengths])
    expected, _ = copy.deepcopy(layer)(packed)
    with use_mask(layer, torch.zeros(3, 2, dtype=torch.bool)):
        got, _ = layer(packed)
    torch.testing.assert_close(got.data, expected.data)


@both
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("normalize", ["all", "input"])
def test_checkpointing_changes_nothing(cls: type[RecurrentBase], reentrant: bool, normalize: str) -> None:
    plain = cls(3, 4, num_layers=2, bidirectional=True, normalize=normalize)
    again = copy.deepcopy(plain)
    x = torch.randn(5, 6, 3, requires_grad=True)
    # the last step is reached by one sequence: it goes by the statistics before the update
    mask = torch.arange(5).unsqueeze(1) < torch.tensor([5, 4, 4, 3, 2, 1])
    output, _ = plain(x, mask=mask)
    wanted = torch.autograd.grad(output.square().sum(), [x, *plain.parameters()])
    with use_mask(again, mask):
        output = checkpoint(lambda x: again(x)[0], x, use_reentrant=reentrant)
    output.square().sum().backward()
    for got, expected in zip([x.grad, *(p.grad for p in again.parameters())], wanted, strict=True):
        torch.testing.assert_close(got, expected)
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[key])


# Gradients, dtypes, state.


@both
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(cls: type[RecurrentBase], training: bool) -> None:
    layer = lively(cls(2, 2, bidirectional=True, dtype=torch.float64)).train(training)
    layer.freeze("batch" if training else "running")  # the same function at every call
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])

    def run(x: Tensor, h: Tensor, *_: Tensor) -> Tensor:
        return layer(x, (h, h.sin()) if cls is BatchNormLSTM else h, mask=mask)[0]

    assert torch.autograd.gradcheck(run, (x, h, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, h), fast_mode=True)


@both
def test_learns_to_sum(cls: type[RecurrentBase]) -> None:
    """The mean of a sequence of its own length, at its end: a loss that falls by far, in evaluation too."""
    net = nn.ModuleDict({"rnn": cls(1, 16), "head": nn.Linear(16, 1)})
    optimizer = torch.optim.Adam(net.parameters(), lr=0.06)

    def loss() -> Tensor:
        lengths = torch.randint(2, 5, (64,))
        x, mask = torch.randn(4, 64, 1), torch.arange(4).unsqueeze(1) < lengths
        states = net["rnn"](x, mask=mask)[1]
        h = states[0] if cls is BatchNormLSTM else states
        target = torch.where(mask.unsqueeze(2), x, 0.0).sum(0) / lengths.sqrt().unsqueeze(1)
        return (net["head"](h[0]) - target).square().mean()

    first = loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with torch.no_grad():
        assert net.train()["rnn"].training
        assert loss().item() < first / 3
        net.eval()
        assert loss().item() < first / 2


@both
def test_state_pickle_and_copies(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, num_layers=2, bidirectional=True)
    layer(torch.randn(4, 6, 3))
    layer.eval()
    x = torch.randn(4, 6, 3)
    expected = layer(x)[0]
    twin = cls(3, 4, num_layers=2, bidirectional=True).eval()
    assert not torch.allclose(twin(x)[0], expected)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    twin.load_state_dict(torch.load(stored, weights_only=True))
    for other in (twin, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], expected)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_statistics_in_float32(cls: type[RecurrentBase], dtype: torch.dtype) -> None:
    layer = cls(3, 4, dtype=dtype)
    x = torch.randn(5, 8, 3, dtype=dtype)
    mask = torch.arange(5).unsqueeze(1) < torch.tensor([5, 5, 4, 3, 3, 2, 2, 1])
    for given in (None, mask):
        output, _ = layer(x, mask=given)
        assert output.dtype == dtype
        output.sum().backward()
    assert all(norm.running_var.dtype == torch.float32 for norm in layer._norms())
    assert all(norm.running_var.dtype == torch.float64 for norm in copy.deepcopy(layer).double()._norms())
    assert layer.half().l0.norm_hh.running_mean.dtype == torch.float32
    reference = copy.deepcopy(layer).double().eval()
    torch.testing.assert_close(
        layer.to(dtype).eval()(x)[0].double(), reference(x.double())[0], rtol=0.05, atol=0.02
    )


@both
def test_autocast(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(torch.randn(4, 6, 3))
    output.float().sum().backward()
    assert layer.l0.norm_hh.running_var.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@both
def test_meta_device(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, device="meta", bidirectional=True)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    assert layer(torch.empty(5, 2, 3, device="meta"))[0].shape == (5, 2, 8)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for lerp_
@both
def test_vmap_over_stacked_models(cls: type[RecurrentBase]) -> None:
    models = [cls(3, 4) for _ in range(2)]
    x = torch.randn(4, 6, 3)
    singles = [copy.deepcopy(model) for model in models]
    expected = torch.stack([single(x)[0] for single in singles])
    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    got = torch.func.vmap(
        lambda p, b: torch.func.functional_call(models[0], (p, b), (x,))[0]  # type: ignore[attr-defined]
    )(parameters, buffers)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        buffers["l0.norm_hh.running_var"], torch.stack([s.l0.norm_hh.running_var for s in singles])
    )


@pytest.mark.compiles
@both
def test_compiles_without_a_graph_break(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    mask = torch.arange(3).unsqueeze(1) < torch.tensor([3, 2, 2, 1])
    x = torch.randn(3, 4, 3)
    for training in (True, False):
        layer.train(training)
        twin.train(training)
        got, wanted = compiled(x, mask=mask)[0], layer(x, mask=mask)[0]
        torch.testing.assert_close(got, wanted)
        for loss, module in ((got, twin), (wanted, layer)):
            module.zero_grad()
            loss.square().sum().backward()
        for parameter, other in zip(twin.parameters(), layer.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[key])


@pytest.mark.compiles
@both
def test_exports(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, batch_first=True)
    layer(torch.randn(6, 4, 3))
    layer.eval()
    x = torch.randn(6, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its decompositions
        program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x)[0], layer(x)[0])


# What does not fit.


@both
def test_a_single_sequence(cls: type[RecurrentBase]) -> None:
    x = torch.randn(4, 1, 3)
    for given in (x, x[:, 0]):
        with pytest.raises(InputError, match="more than one sequence"):
            cls(3, 4)(given)
        layer = cls(3, 4, on_small_batch="running")
        trained, evaluated = layer(given)[0], layer.eval()(given)[0]
        torch.testing.assert_close(trained, evaluated)
        assert layer.l0.norm_hh.num_batches_tracked.sum() == 0
    # over all steps there are statistics of one sequence
    assert cls(3, 4, normalize="input")(x)[0].isfinite().all()


@both
def test_nothing_valid_and_nobody_there(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4)
    before = copy.deepcopy(layer.state_dict())
    h = torch.randn(1, 5, 4)
    output, states = layer(
        torch.full((3, 5, 3), float("nan")),
        (h, h) if cls is BatchNormLSTM else h,
        mask=torch.zeros(3, 5, dtype=torch.bool),
    )
    assert (output == 0).all()
    torch.testing.assert_close(states[0] if cls is BatchNormLSTM else states, h)
    assert layer(torch.randn(3, 0, 3))[0].shape == (3, 0, 4)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


@both
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"input": torch.randn(4, 5, 2)}, "3 features.*features come last"),
        ({"input": torch.randn(4)}, "3 features"),
        ({"input": torch.randn(2, 2, 2, 3)}, "features"),
        ({"input": torch.ones(4, 5, 3, dtype=torch.long)}, "floating-point"),
        ({"input": torch.randn(0, 5, 3)}, "at least one step"),
        ({"mask": torch.ones(5, 4)}, "0/1 integers"),
        ({"mask": torch.ones(5, 4, dtype=torch.bool)}, r"mask: expected shape \(4, 5\)"),
        ({"hx": torch.zeros(1, 4, 4)}, "hx: expected"),
        ({"hx": 3}, "hx: expected.*int"),
        ({"first_step": -1}, "first_step"),
    ],
)
def test_bad_calls_leave_the_statistics_alone(
    cls: type[RecurrentBase], arguments: dict[str, object], match: str
) -> None:
    net = nn.ModuleDict({"encoder": cls(3, 4)})
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=rf"ModuleDict.encoder: (?s:.*){match}"):
        net["encoder"](**{"input": torch.randn(4, 5, 3), **arguments})
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@both
def test_packed_sequences_take_no_mask(cls: type[RecurrentBase]) -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 3), torch.randn(2, 3)])
    with pytest.raises(InputError, match="knows its lengths"):
        cls(3, 4)(packed, mask=torch.ones(3, 2, dtype=torch.bool))


@both
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hidden_size": 0}, "hidden_size: expected a positive whole number, got 0"),
        ({"max_steps": 0}, "max_steps"),
        ({"proj_size": 2}, "proj_size: expected 0"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_bad_settings(cls: type[RecurrentBase], arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        cls(**{"input_size": 3, "hidden_size": 4, **arguments})


@pytest.mark.compiles  # where shapes are not checked, neither are other annotations: the layer's own words are seen
@both
def test_unknown_words(cls: type[RecurrentBase]) -> None:
    with pytest.raises(InputError, match="normalize: expected 'all' or 'input', got 'hidden'"):
        cls(3, 4, normalize="hidden")
    with pytest.raises(InputError, match="on_small_batch: expected one of"):
        cls(3, 4, on_small_batch="skip")


@both
def test_dropout_between_layers_only(cls: type[RecurrentBase]) -> None:
    layer = cls(3, 4, num_layers=2, dropout=1.0).freeze("batch")
    output, _ = layer(torch.randn(4, 6, 3))
    # nothing reaches the second layer: all sequences are alike, while those of the first differ
    torch.testing.assert_close(output, output[:, :1].expand_as(output))
    single = cls(3, 4, dropout=1.0)
    output, _ = single(torch.randn(4, 6, 3))
    assert output.std(1).min() > 0
    torch.testing.assert_close(layer.eval()(torch.ones(4, 6, 3))[0], layer(torch.ones(4, 6, 3))[0])


@both
def test_repr(cls: type[RecurrentBase]) -> None:
    text = repr(cls(3, 4, num_layers=2, bidirectional=True, normalize="input", max_steps=7))
    expected = f"{cls.__name__}(\n  3, 4, num_layers=2, bidirectional=True, normalize='input', max_steps=7\n"
    assert text.startswith(expected)
    assert "StepNorm(16, eps=1e-05, momentum=0.1, affine=True" in repr(cls(3, 4)).replace("(12,", "(16,")
