"""Statistics per domain: as torch's batch norms one by one, and composed with all that norms of normsmith do."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from tests.ranks import run_ranks
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers import DomainNorm, use_domain

NAMES = ("clean", "adversarial", "foggy")
SPACES = {"1d": (), "2d": (4, 3), "3d": (2, 3, 2)}


def made(name="2d", affine="shared", dtype=torch.float64, **options):
    layer = getattr(ours, f"DomainBatchNorm{name}")(3, NAMES, affine=affine, dtype=dtype, **options).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for norm in layer.norms.values():
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return layer


def separate(layer, name="2d", affine="shared"):
    """torch's batch norms with what the layer holds, γ and β shared as there."""
    norms = {}
    for domain in NAMES:
        norms[domain] = getattr(nn, f"BatchNorm{name}")(3, dtype=torch.float64)
        norms[domain].load_state_dict(layer.norms[domain].state_dict())
        if affine == "shared":
            norms[domain].weight, norms[domain].bias = norms["clean"].weight, norms["clean"].bias
    return norms


def assert_alike(layer, norms):
    for domain in NAMES:
        torch.testing.assert_close(
            layer.norms[domain].state_dict(), norms[domain].state_dict(), rtol=1e-10, atol=1e-10
        )
        for one, other in zip(layer.norms[domain].parameters(), norms[domain].parameters(), strict=True):
            if other.grad is None:
                assert one.grad is None
            else:
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("affine", ["shared", "own"])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_it_equals_batch_norms_of_torch_one_by_one(name, affine, mixed, training):
    layer = made(name, affine).train(training)
    norms = separate(layer, name, affine)
    index = torch.tensor([0, 1, 1, 0, 1, 0, 1]) if mixed else torch.tensor([1] * 7)
    x = torch.randn(7, 3, *SPACES[name], dtype=torch.float64, requires_grad=True)
    twin, g = x.detach().clone().requires_grad_(), torch.randn_like(x)
    with use_domain(layer, index if mixed else "adversarial"):
        y = layer(x)
    y.backward(g)
    for number, domain in enumerate(NAMES[:2]):
        rows = index == number
        if rows.any():
            part = norms[domain].train(training)(twin[rows])
            torch.testing.assert_close(y[rows], part, rtol=1e-10, atol=1e-10)
            part.backward(g[rows])
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-10, atol=1e-10)
    assert_alike(layer, norms)


def test_a_domain_of_one_value_is_an_error_and_no_statistics_move():
    layer = made("1d")
    before = copy.deepcopy(layer.state_dict())
    with (
        use_domain(layer, torch.tensor([0, 0, 0, 2])),
        pytest.raises(InputError, match=r"norms\.foggy: .* than one value"),
    ):
        layer(torch.randn(4, 3, dtype=torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_a_domain_of_one_value_goes_by_its_running_statistics_if_asked_to():
    layer = made("1d", on_small_batch="running")
    before, x = copy.deepcopy(layer), torch.randn(4, 3, dtype=torch.float64)
    with use_domain(layer, torch.tensor([0, 0, 0, 2])):
        y = layer(x)
    torch.testing.assert_close(y[3:], before.norms["foggy"].eval()(x[3:]))
    assert [norm.num_batches_tracked.item() for norm in layer.norms.values()] == [1, 0, 0]


def test_an_empty_batch_and_a_batch_of_another_length():
    layer = made("1d")
    with use_domain(layer, torch.zeros(0, dtype=torch.long)):
        assert layer(torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 3)
    with (
        use_domain(layer, torch.tensor([0, 1])),
        pytest.raises(InputError, match="expected an input of 2 rows"),
    ):
        layer(torch.zeros(4, 3, dtype=torch.float64))


def test_masks_weights_and_residuals_are_cut_as_the_batch_is():
    norms = {domain: ours.BatchNormAct1d(3, activation="relu") for domain in NAMES}
    layer, apart = DomainNorm(norms), copy.deepcopy(norms)
    x, residual, weight = torch.randn(8, 3), torch.randn(8, 3), torch.rand(8)
    index, mask = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]), torch.tensor([1, 1, 1, 1, 1, 1, 0, 0])
    with use_domain(layer, index), ours.use_mask(layer, mask):
        y = layer(x, sample_weight=weight, residual=residual)
    for number, domain in enumerate(NAMES[:2]):
        rows = index == number
        part = apart[domain](x[rows], mask[rows], weight[rows], residual[rows])
        torch.testing.assert_close(y[rows], part)
    with use_domain(layer, index):
        assert (layer(x, mask=torch.zeros(1, dtype=torch.bool)) == 0).all()
        with pytest.raises(InputError, match=r"mask: expected shape \(4,\)"):
            layer(x, mask=torch.ones(7, dtype=torch.bool))


def test_renorm_freezing_and_accumulation_are_those_of_each_norm():
    layer = DomainNorm({domain: ours.BatchRenorm1d(3, schedule="keras") for domain in NAMES}, default="clean")
    x = torch.randn(8, 3)
    with ours.accumulate(layer):
        layer(x)
        layer(x)
    ours.freeze(layer)
    with use_domain(layer, "foggy"):
        layer(x)
    ours.unfreeze(layer)
    with ours.without_a_trace(layer):
        layer(x)
    assert [norm.num_batches_tracked.item() for norm in layer.norms.values()] == [1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    layer = made(dtype=torch.float32)
    x, index = torch.randn(6, 3, 4, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    with use_domain(layer, index):
        full = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == layer.norms["clean"](x).dtype
        half = layer.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    assert layer.norms["clean"].running_var.dtype == torch.float32
    torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("affine", ["shared", "own"])
def test_copies_pickles_and_state_dicts_go_round(affine):
    layer = made(affine=affine)
    x = torch.randn(6, 3, 4, 3, dtype=torch.float64)
    index = torch.tensor([0, 1, 2, 0, 1, 2])
    loaded, assigned = made(affine=affine), made(affine=affine)
    loaded.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    assigned.load_state_dict(torch.load(file), assign=True)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded, assigned):
        with use_domain(twin, index), use_domain(layer, index):
            assert torch.equal(twin.eval()(x), layer.eval()(x))
        assert (twin.norms["clean"].weight is twin.norms["foggy"].weight) == (affine == "shared")
        assert repr(twin) == repr(layer)


@pytest.mark.parametrize("affine", ["shared", "own"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_plain_checkpoint_is_every_domains_beginning(affine, assign):
    plain = nn.Sequential(nn.BatchNorm2d(3, dtype=torch.float64))
    plain(torch.randn(5, 3, 4, 3, dtype=torch.float64))
    state = plain.state_dict()
    before = copy.deepcopy(state)
    model = nn.Sequential(made(affine=affine))
    assert not any(model.load_state_dict(state, assign=assign))
    assert state.keys() == before.keys()
    for domain in NAMES:
        torch.testing.assert_close(model[0].norms[domain].state_dict(), plain[0].state_dict())
    with use_domain(model, "foggy"):
        model(torch.randn(5, 3, 4, 3, dtype=torch.float64))
    assert torch.equal(model[0].norms["clean"].running_mean, before["0.running_mean"])
    assert (model[0].norms["clean"].weight is model[0].norms["foggy"].weight) == (affine == "shared")


def test_own_affines_do_not_load_into_a_shared_one():
    with pytest.raises(
        RuntimeError, match=r'norms: expected one weight for all domains \(affine="shared"\), got several'
    ):
        made().load_state_dict(made(affine="own").state_dict())


@pytest.mark.parametrize(
    "norms",
    [
        {"a": ours.BatchNorm1d(3), "b": ours.BatchNorm1d(4)},
        {"a": ours.BatchNorm1d(3), "b": ours.BatchRenorm1d(3)},
    ],
)
def test_norms_that_are_not_alike_are_refused(norms):
    with pytest.raises(InputError, match="norms: expected norms of normsmith, all of one class"):
        DomainNorm(norms)


def test_one_norm_for_two_domains_is_refused():
    norm = ours.BatchNorm1d(3)
    with pytest.raises(InputError, match="norms: expected a norm for each domain, got one for two of them"):
        DomainNorm({"a": norm, "b": norm})


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.compiles
def test_a_domain_that_is_fixed_is_exported_and_traced_alone():
    model = nn.Sequential(nn.Linear(3, 3), made("1d", dtype=torch.float32)).eval()
    x = torch.randn(4, 3)
    with use_domain(model, "adversarial"):
        y = model(x)
        exported, traced = torch.export.export(model, (x,)), torch.fx.symbolic_trace(model)
    for each in (exported.module(), traced):
        torch.testing.assert_close(each(x), y)
    assert not any("norms_clean" in str(node.target) for node in traced.graph.nodes)
    with use_domain(model, torch.zeros(4, dtype=torch.long)):
        for record in (
            torch.fx.symbolic_trace,
            lambda model: torch.jit.trace(model, x),
            lambda model: torch.export.export(model, (x,)),
        ):
            with pytest.raises(InputError, match="expected one domain to export or trace, got an index"):
                record(model)
    with pytest.raises(InputError, match="torch has no counterpart of DomainBatchNorm1d"):
        torch.jit.script(model)


@pytest.mark.compiles
def test_in_onnx_a_domain_is_a_plain_batch_norm(tmp_path):
    import onnx
    import onnxruntime

    layer, x, path = made("2d", "own", torch.float32).eval(), torch.randn(2, 3, 4, 3), tmp_path / "layer.onnx"
    with use_domain(layer, "foggy"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(layer, (x,), path, dynamo=True, verbose=False)
        y = layer(x).detach()
    assert [node.op_type for node in onnx.load(path).graph.node] == ["BatchNormalization"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), y, rtol=1e-5, atol=1e-5)


class Chooses(nn.Module):
    """A network that is given the index with its input."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, index):
        with use_domain(self.layer, index):
            return self.layer(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.compiles
def test_an_index_that_would_be_kept_is_refused_where_the_network_chooses_too():
    network, example = (
        Chooses(made("1d", dtype=torch.float32).eval()),
        (torch.randn(2, 3), torch.tensor([0, 1])),
    )
    with pytest.raises(InputError, match="domain: expected the name of one in what is exported or traced"):
        torch.export.export(network, example)
    with pytest.raises(InputError, match="domain: expected the name of one in what is exported or traced"):
        torch.jit.trace(network, example)


@pytest.mark.compiles
@pytest.mark.parametrize("affine", ["shared", "own"])
def test_compiled_without_graph_breaks_and_anew_for_another_domain(affine):
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(3, 3), made("1d", affine, torch.float32), nn.ReLU(inplace=True))
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(6, 3)
    for domain in (
        "clean",
        "foggy",
        "clean",
        torch.tensor([0, 0, 1, 1, 2, 2]),
        torch.tensor([0, 0, 0, 1, 1, 1]),
    ):
        for each, run in ((model, compiled), (twin, twin)):
            with use_domain(each, domain):
                run(x).square().sum().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_torchs_synchronised_norms_may_take_the_place_of_the_norms():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(made(affine="shared", dtype=torch.float32)).eval()
    assert type(model.norms["clean"]) is nn.SyncBatchNorm
    assert model.norms["clean"].weight is model.norms["foggy"].weight
    with use_domain(model, "clean"):
        model(torch.randn(4, 3, 2, 2))
    with use_domain(model, torch.tensor([0, 1, 0, 1])):
        assert model(torch.randn(4, 3, 2, 2)).shape == (4, 3, 2, 2)


# Several processes.

INDEX = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0])
STEPS = 2


def network(process_group=None, affine="own"):
    torch.manual_seed(0)
    norm = ours.DomainBatchNorm1d(4, ("clean", "adversarial"), affine=affine, process_group=process_group)
    return nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(inplace=True), nn.Linear(4, 2)).double()


def data():
    return torch.linspace(-2, 3, 24, dtype=torch.float64).sin().view(8, 3)


def train(net, domain, shard=slice(None), ranks=1):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with use_domain(net, domain[shard] if isinstance(domain, torch.Tensor) else domain):
            (net(data()[shard]).square().sum() * ranks / 8).backward()
        optimizer.step()


def _ranks(rank, size):
    """DDP without `find_unused_parameters`: one domain for all, a domain for each rank, samples of both."""
    shard = slice(0, 3) if rank == 0 else slice(3, 8)
    result = {}
    for name, domain in {"one": "clean", "each": ("clean", "adversarial")[rank]}.items():
        net = nn.parallel.DistributedDataParallel(network())
        train(net, domain, slice(0, 4) if rank == 0 else slice(4, 8), size)
        result[name] = [parameter.detach() for parameter in net.parameters()]
    synchronised = network("world")
    train(nn.parallel.DistributedDataParallel(synchronised), INDEX, shard, size)
    lacking = network("world")  # the first rank has no sample of the second domain
    with use_domain(lacking, INDEX[slice(0, 2) if rank == 0 else slice(2, 8)]):
        lacking(data()[slice(0, 2) if rank == 0 else slice(2, 8)])
    assert dist.is_initialized()
    return result | {"synchronised": synchronised.state_dict(), "lacking": dict(lacking.named_buffers())}


def test_ranks_that_train_together_may_leave_an_own_affine_unused():
    ranks = run_ranks(_ranks, 2)
    for name in ("one", "each"):
        torch.testing.assert_close(ranks[0][name], ranks[1][name])
    start = [parameter.detach() for parameter in network().parameters()]
    moved = [not torch.equal(one, other) for one, other in zip(ranks[0]["one"], start, strict=True)]
    assert moved == [True, True, True, True, False, False, True, True]
    assert not torch.equal(ranks[0]["each"][4], start[4])
    alone = network()
    train(alone, INDEX)
    for rank in ranks:
        torch.testing.assert_close(rank["synchronised"], alone.state_dict(), rtol=1e-8, atol=1e-8)
    once = network()
    with use_domain(once, INDEX):
        once(data())
    for rank in ranks:
        torch.testing.assert_close(rank["lacking"], dict(once.named_buffers()), rtol=1e-8, atol=1e-8)
