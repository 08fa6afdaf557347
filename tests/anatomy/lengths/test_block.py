"""The block itself: what it gives, what it leaves, and who it holds for."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from unpadded import Runs, padded

from normsmith import use_lengths
from normsmith.errors import InputError, LengthsError
from normsmith.layers import BatchNorm1d

SAMPLES = [torch.randn(1, 3, n) for n in (9, 5)]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(3, 4, 3, padding=1, stride=2), BatchNorm1d(4), nn.ReLU()).eval()


def scripted() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        return torch.jit.script(nn.ReLU())


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def test_lengths_and_masks_of_outputs() -> None:
    net = network()
    with use_lengths(net, [9, 5]) as lengths:
        y = net(padded(SAMPLES, more=0))
    assert lengths.lengths_of(y).tolist() == [5, 3]
    assert lengths.mask_of(y)[:, 0].sum(1).tolist() == [5, 3]
    assert y[1, :, 3:].abs().max() == 0
    with pytest.raises(LengthsError, match="expected a tensor that a forward in the block returned"):
        lengths.lengths_of(torch.ones(3))
    net = nn.AdaptiveAvgPool1d(1)
    with use_lengths(net, [9, 5]) as lengths:
        y = net(padded(SAMPLES))
    assert lengths.lengths_of(y) is None
    assert lengths.mask_of(y).all()


def test_training_is_that_of_pooled_statistics() -> None:
    """Outputs, statistics and gradients are those of the unpadded samples with one norm over all their positions."""
    net = network().train()
    other = copy.deepcopy(net)
    with use_lengths(net, [9, 5]):
        net(padded(SAMPLES)).square().sum().backward()
    parts = [other[0](sample) for sample in SAMPLES]
    other[2](other[1](torch.cat(parts, dim=2))).square().sum().backward()
    for (name, mine), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(net[1].running_var, other[1].running_var)


def test_nothing_is_left_in_the_model() -> None:
    net = network()
    before = hooks(net)
    with use_lengths(net, [9, 5]):
        assert hooks(net) > before
        twin = copy.deepcopy(net)
        again = pickle.loads(pickle.dumps(net))
        twin(torch.ones(7, 3, 4)), again(torch.ones(7, 3, 4))  # of another size: they are followed no longer
    assert hooks(net) == before
    with pytest.raises(RuntimeError, match="expected input"), use_lengths(net, [9, 5], layout="NCT"):
        net(torch.ones(2, 4, 9))
    assert hooks(net) == before
    net(torch.ones(7, 3, 4))


def test_an_error_in_a_forward_ends_only_that_forward() -> None:
    net = network()
    with use_lengths(net, [9, 5]) as lengths:
        with pytest.raises(InputError, match="at most 8"):
            net(torch.ones(2, 3, 8))
        with pytest.raises(RuntimeError):
            net(torch.ones(2, 2, 9))
        assert torch.fft.fft(torch.ones(2)).real.sum() == 2, "outside of forwards nothing is followed"
        assert lengths.lengths_of(net(padded(SAMPLES))).tolist() == [5, 3]


def test_a_forward_that_is_refused_moves_no_statistics() -> None:
    net = nn.Sequential(nn.Conv1d(1, 2, 1), BatchNorm1d(2), nn.MaxPool1d(2))
    before = copy.deepcopy(net.state_dict())
    with use_lengths(net, [4, 1]), pytest.raises(LengthsError, match="nothing is left of sample 1"):
        net(torch.randn(2, 1, 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with use_lengths(net, [4, 2]):
        net(torch.randn(2, 1, 4))
    assert net[1].num_batches_tracked == 1


def test_an_interrupted_forward_is_not_gone_on_with() -> None:
    def interrupt(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    net = Runs(interrupt)
    with use_lengths(net, [9, 5]):
        with pytest.raises(KeyboardInterrupt):
            net(padded(SAMPLES))
        with pytest.raises(LengthsError, match="was interrupted; open another block"):
            net(padded(SAMPLES))
    assert torch.fft.fft(torch.ones(2)).real.sum() == 2


def test_blocks_in_blocks() -> None:
    """The innermost holds, and the outer one again after it."""
    net, x = network(), padded(SAMPLES)
    with use_lengths(net, [9, 5]) as outer:
        with use_lengths(net, [4, 4]) as inner:
            assert inner.lengths_of(net(x)).tolist() == [2, 2]
        assert outer.lengths_of(net(x)).tolist() == [5, 3]


def test_two_models_side_by_side_and_not_within_each_other() -> None:
    first, second, x = network(), network(), padded(SAMPLES)
    with use_lengths(first, [9, 5]) as of_first, use_lengths(second, [4, 4]) as of_second:
        assert of_first.lengths_of(first(x)).tolist() == [5, 3]
        assert of_second.lengths_of(second(x)).tolist() == [2, 2]
    whole = nn.Sequential(nn.ReLU(), second)
    with (
        pytest.raises(LengthsError, match="runs within another"),
        use_lengths(whole, [9, 5]),
        use_lengths(second, [9, 5]),
    ):
        whole(x)


def test_other_threads_are_left_alone() -> None:
    net, results = network(), {}

    def run(name: str, lengths: list[int] | None) -> None:
        if lengths is None:
            results[name] = net(torch.ones(3, 3, 6)).shape
            return
        with use_lengths(net, lengths) as known:
            results[name] = known.lengths_of(net(padded(SAMPLES))).tolist()

    with use_lengths(net, [9, 5]) as lengths:
        for name, own in (("without", None), ("own", [4, 4])):
            thread = threading.Thread(target=run, args=(name, own))
            thread.start()
            thread.join()
        assert lengths.lengths_of(net(padded(SAMPLES))).tolist() == [5, 3]
    assert results == {"without": (3, 4, 3), "own": [2, 2]}


def test_the_input_may_have_a_name() -> None:
    class Two(nn.Module):
        def forward(self, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            return values.mean(-1) + ids

    net = Two()
    with use_lengths(net, [9, 5], input="values"):
        y = net(torch.zeros(2, 1), values=padded(SAMPLES))
    torch.testing.assert_close(y, torch.cat([sample.mean(-1) for sample in SAMPLES]))
    with use_lengths(net, [9, 5], input=1):
        torch.testing.assert_close(net(torch.zeros(2, 1), padded(SAMPLES)), y)
    with (
        pytest.raises(InputError, match="expected a tensor as input 'x' of the model, got NoneType"),
        use_lengths(net, [9, 5], input="x"),
    ):
        net(torch.zeros(2, 1), padded(SAMPLES))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_is_refused(reentrant) -> None:
    inner = network().train()
    net = Runs(partial(checkpoint, inner, use_reentrant=reentrant), inner)
    with (
        pytest.raises(
            LengthsError, match=r"layers\.0.* cannot be followed: it runs within activation checkpointing"
        ),
        use_lengths(net, [9, 5]),
    ):
        net(padded(SAMPLES).requires_grad_())


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: nn.DataParallel(network()), r"got DataParallel; use its \.module"),
        (lambda: nn.Sequential(scripted()), "a scripted module at '0'"),
    ],
)
def test_models_that_cannot_be_seen_are_refused(net, words) -> None:
    with pytest.raises(InputError, match=words), use_lengths(net(), [1]):
        pass


@pytest.mark.compiles
def test_compiled_and_exported_models_are_refused() -> None:
    net, x = network(), padded(SAMPLES)
    compiled = torch.compile(net, backend="eager")
    with (
        pytest.raises(InputError, match="use the model that it was compiled from"),
        use_lengths(compiled, [9, 5]),
    ):
        pass
    with use_lengths(net, [9, 5]):
        for call in (compiled, lambda x: torch.export.export(net, (x,))):
            with pytest.raises(LengthsError, match="expected a model that runs eagerly"):
                call(x)
        net(x)
    torch.compiler.reset()  # it remembers forwards that raised, and compiles them no more
