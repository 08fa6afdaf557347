"""Errors that a layer raises while `torch.compile` traces it arrive with their own text, the layer's path included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normsmith.layers as ours
from normsmith.errors import InputError

X = torch.linspace(0, 1, 24).view(6, 4).cos()
SEQUENCES = X.view(6, 2, 2)

CASES: list[tuple[Callable[[], nn.Module], dict[str, Any], str]] = [
    (lambda: ours.BatchNorm1d(4), {"input": X[:1]}, "expected more than one value per channel"),
    (lambda: ours.BatchNorm1d(5), {"input": X}, "expected 5 channels in dimension 1, got shape (6, 4)"),
    (lambda: ours.BatchNorm2d(4), {"input": X}, "expected a 4-D input"),
    (lambda: ours.BatchNorm1d(4), {"input": X.long()}, "expected a floating-point input, got torch.int64"),
    (lambda: ours.BatchNorm1d(4), {"input": X, "mask": X[:5, 0] > 0}, "mask: expected shape (6,)"),
    (lambda: ours.BatchNorm1d(4), {"input": X, "mask": X[:, 0]}, "mask: expected bool or 0/1 integers"),
    (lambda: ours.BatchNorm1d(4, ghost_batch_size=1), {"input": X}, "ghost_batch_size: expected ghost batches"),
    (lambda: ours.BatchNormAct1d(4), {"input": X, "residual": X[:5]}, "residual: expected the input's shape"),
    (lambda: ours.BatchRenorm1d(4), {"input": X}, "expected total_steps"),
    (lambda: ours.BatchNorm1d(4, process_group="world"), {"input": X}, "expected torch.distributed to be init"),
    (lambda: ours.Whiten1d(4), {"x": X[:3]}, "whitening: expected more values per channel than the 4 channels"),
    (lambda: ours.InputNorm(5), {"x": X}, "with 5 features along dim=1, got shape (6, 4)"),
    (lambda: ours.BatchNormLSTM(3, 2), {"input": SEQUENCES}, "with 3 features"),
    (lambda: ours.BatchNormLSTM(2, 2), {"input": SEQUENCES[:, :1]}, "expected more than one sequence in training"),
    (lambda: ours.BatchNormGRU(2, 2), {"input": SEQUENCES, "first_step": -1}, "first_step: expected a whole number"),
]  # fmt: skip


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(layer)

    def forward(self, **arguments: Any) -> Tensor:
        result: Tensor = self.block[0](**arguments)
        return result


@pytest.mark.compiles
@pytest.mark.parametrize(("layer", "arguments", "text"), CASES, ids=[case[2][:30] for case in CASES])
def test_an_input_error_is_itself(
    layer: Callable[[], nn.Module], arguments: dict[str, Any], text: str
) -> None:
    torch._dynamo.reset()
    net = Net(layer())
    with pytest.raises(InputError) as eager:
        net(**arguments)
    with pytest.raises(InputError) as compiled:
        torch.compile(net, backend="eager")(**arguments)
    assert text in str(compiled.value)
    assert str(compiled.value) == str(eager.value)
    assert str(compiled.value).startswith("Net.block.0: ")


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("layer", "arguments", "text"),
    [
        pytest.param(*case, id=case[2][:30], marks=[] if number % 3 == 0 else pytest.mark.full)
        for number, case in enumerate(CASES)
    ],
)
def test_its_text_is_in_the_error_of_the_compiler_which_may_not_break_the_graph(
    layer: Callable[[], nn.Module], arguments: dict[str, Any], text: str
) -> None:
    torch._dynamo.reset()
    net = Net(layer())
    with pytest.raises(Exception, match=r"Net\.block\.0: ") as caught:
        torch.compile(net, backend="eager", fullgraph=True)(**arguments)
    assert text in str(caught.value).replace("\\'", "'")


@pytest.mark.compiles
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_good_batch_after_a_bad_one_is_compiled(backend: str) -> None:
    torch._dynamo.reset()
    net = Net(ours.BatchNorm1d(4))
    compiled = torch.compile(net, backend=backend)
    with pytest.raises(
        InputError, match=r"^Net\.block\.0: batch norm: expected more than one value per channel"
    ):
        compiled(input=X[:1])
    assert net.block[0].num_batches_tracked == 0
    torch.testing.assert_close(compiled(input=X), nn.BatchNorm1d(4)(X))
    torch._dynamo.reset()
    torch.testing.assert_close(
        torch.compile(net, backend=backend, fullgraph=True)(input=X), nn.BatchNorm1d(4)(X)
    )
    assert net.block[0].num_batches_tracked == 2


@pytest.mark.compiles
def test_a_lazy_layer_says_where_it_is() -> None:
    torch._dynamo.reset()
    with pytest.raises(
        Exception, match=r"InputError: Net\.block\.0: expected an input of shape \(batch, chan"
    ):
        torch.compile(Net(ours.LazyBatchNorm1d()), backend="eager")(input=X[0])
