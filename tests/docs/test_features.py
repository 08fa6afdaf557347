"""What works with what: each cell of the page's tables is tried."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.docs.pages import DOCS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normsmith import layers, surgery, use_lengths
from normsmith.errors import NormsmithError

PAGE = (DOCS / "reference" / "features.md").read_text(encoding="utf-8")
Table = dict[str, dict[str, str]]


def table(heading: str) -> Table:
    """The cells of the table under a heading: row → column → word."""
    lines = [
        line
        for line in PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
        if "|" in line
    ]
    first, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: dict(zip(first[1:], cells, strict=True)) for name, *cells in rows}


BLOCKS, OPERATIONS = table("Within a block"), table("Operations")
INDEX = torch.tensor([0, 1, 1, 0, 0, 1])
LENGTHS = [8, 7, 6, 5, 4, 3]


def frozen(affine: bool) -> nn.Module:
    layer = layers.BatchNorm1d(4, affine=affine)
    layer.freeze()
    return layer


KINDS: dict[str, Callable[[bool], nn.Module]] = {
    "batch norm of torch": lambda affine: nn.BatchNorm1d(4, affine=affine),
    "batch norm": lambda affine: layers.BatchNorm1d(4, affine=affine),
    "batch renorm": lambda affine: layers.BatchRenorm1d(4, total_steps=10, affine=affine),
    "ghost batches": lambda affine: layers.BatchNorm1d(4, ghost_batch_size=3, affine=affine),
    "fused activation": lambda affine: layers.BatchNormAct1d(4, affine=affine),
    "frozen statistics": frozen,
    "no γ and β": lambda _: layers.BatchNorm1d(4, affine=False),
    "`DomainNorm`": lambda _: layers.DomainBatchNorm1d(4, 2, default="0"),
    "`ConditionalNorm`": lambda _: layers.ConditionalBatchNorm1d(4, 2, default="0"),
    "whitening": lambda _: layers.Whiten1d(4),
    "group norm": lambda _: nn.GroupNorm(2, 4),
}


@dataclass
class Case:
    """A network with something of a column, its batch, and the block around a forward."""

    model: nn.Module
    x: Tensor
    block: Callable[[nn.Module], AbstractContextManager[Any]]
    mixed: Callable[[nn.Module], AbstractContextManager[Any]]
    """The block with an index for each sample."""

    def step(self, block: Callable[[nn.Module], AbstractContextManager[Any]] | None = None) -> None:
        """A forward and a backward."""
        with (block or self.block)(self.model):
            y = self.model(self.x)
        y.square().sum().backward()
        assert y.isfinite().all()


def case(column: str, kind: str = "batch norm") -> Case:
    torch.manual_seed(0)
    if column == "`use_lengths`":
        model = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), KINDS[kind](True), nn.ReLU())
        x, lengths = torch.randn(6, 3, 8), lambda model: use_lengths(model, LENGTHS)
        return Case(model, x, lengths, lengths)
    kinds: Any = KINDS[kind]
    if kind == "batch norm of torch":
        norm = kinds(True)
    elif column == "`DomainNorm`":
        norm = layers.DomainNorm({name: kinds(True) for name in ("clean", "adversarial")})
    else:
        norm = layers.ConditionalNorm(kinds(False), ("clean", "adversarial"))
    return Case(
        nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU()),
        torch.randn(6, 3),
        lambda model: layers.use_domain(model, "clean"),
        lambda model: layers.use_domain(model, INDEX),
    )


class Checkpointed(nn.Module):
    """A network whose forward is recomputed in the backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return y


def of_kind(kind: str, *, training: bool = True) -> Callable[[str], None]:
    def step(column: str) -> None:
        made = case(column, kind)
        made.model.train(training)
        made.step()

    return step


def within(context: Callable[[nn.Module, Tensor], AbstractContextManager[Any]]) -> Callable[[str], None]:
    """A step within another block too."""

    def step(column: str) -> None:
        made = case(column)
        with context(made.model, made.x):
            made.step()

    return step


def mask(model: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    return layers.use_mask(model, torch.ones(6, 8, dtype=torch.bool) if x.ndim == 3 else torch.arange(6) < 5)


def recomputed(column: str) -> None:
    made = case(column)
    made.model = Checkpointed(made.model)
    made.step()


def recalibrated(column: str) -> None:
    made = case(column)
    with made.block(made.model):
        assert surgery.recalibrate(made.model, [made.x, made.x]).apply() is made.model


def copied(column: str) -> None:
    made = case(column)
    with made.block(made.model):
        other = copy.deepcopy(made.model)
    Case(other, made.x, made.block, made.mixed).step()


def recorded(how: Callable[[nn.Module, Tensor], Any], *, mixed: bool = False) -> Callable[[str], None]:
    """Exported or traced within the block; what comes of it computes the same."""

    def record(column: str) -> None:
        made = case(column)
        made.model.eval()
        with warnings.catch_warnings(), (made.mixed if mixed else made.block)(made.model), torch.no_grad():
            warnings.simplefilter("ignore")
            program = how(made.model, made.x)
            torch.testing.assert_close(program(made.x), made.model(made.x))

    return record


def fx(model: nn.Module, x: Tensor) -> Any:
    return torch.fx.symbolic_trace(model)


def traced(model: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(model, x)  # type: ignore[no-untyped-call]


def scripted(model: nn.Module, x: Tensor) -> Any:
    return torch.jit.script(model)


def exported(model: nn.Module, x: Tensor) -> Any:
    return torch.export.export(model, (x,)).module()


ROWS: dict[str, Callable[[str], None]] = {
    **{kind: of_kind(kind) for kind in list(KINDS)[:6]},
    "batch norm of torch, in evaluation": of_kind("batch norm of torch", training=False),
    "an index for each sample": lambda column: (made := case(column)).step(made.mixed),
    "`use_mask`": within(mask),
    "`accumulate`": within(lambda model, _: layers.accumulate(model)),
    "`without_a_trace`": within(lambda model, _: layers.without_a_trace(model)),
    "bfloat16 by autocast": within(lambda *_: torch.autocast("cpu", torch.bfloat16)),
    "activation checkpointing": recomputed,
    "`surgery.recalibrate`": recalibrated,
    "a copy made within the block": copied,
    "`torch.fx`": recorded(fx),
    "`torch.fx`, an index for each sample": recorded(fx, mixed=True),
    "`torch.jit.trace`": recorded(traced),
    "`torch.jit.trace`, an index for each sample": recorded(traced, mixed=True),
    "`torch.jit.script`": recorded(scripted),
    "`torch.export`": recorded(exported),
    "`torch.export`, an index for each sample": recorded(exported, mixed=True),
}


def outcome(row: str, column: str) -> str:
    """Whether it works or is refused; whatever else is raised is neither."""
    try:
        ROWS[row](column)
    except NormsmithError:
        return "refused"
    return "yes"


RECORDED = [row for row in ROWS if row.startswith("`torch.")]
"""Rows that the shape checks would be in the way of."""


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.compiles if row in RECORDED else ()) for row in BLOCKS]
)
def test_what_works_within_a_block(row: str) -> None:
    tried = {column: outcome(row, column) for column, cell in BLOCKS[row].items() if cell != "–"}
    assert tried == {column: cell for column, cell in BLOCKS[row].items() if cell != "–"}


def test_every_row_is_tried() -> None:
    assert ROWS.keys() == BLOCKS.keys()
    assert KINDS.keys() == OPERATIONS.keys()
    assert {"yes", "refused", "–"} == {cell for row in BLOCKS.values() for cell in row.values()}


def network(kind: str) -> nn.Sequential:
    """A network with a norm of a kind, and one of torch's."""
    torch.manual_seed(0)
    first, second = nn.Sequential(nn.Linear(3, 4), KINDS[kind](True), nn.ReLU()), nn.BatchNorm1d(4)
    return nn.Sequential(*first, nn.Linear(4, 4), second, nn.ReLU(), nn.Linear(4, 2)).eval()


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
PLANS: dict[str, Callable[[nn.Module], Any]] = {
    "`recalibrate`": lambda model: surgery.recalibrate(model.train(), [X, X]).plan,
    "`merge_statistics`": lambda model: surgery.merge_statistics(model, [copy.deepcopy(model)], batch=X),
    "`average`": lambda model: surgery.average(model, [copy.deepcopy(model)], batch=X),
    "`prune`": lambda model: surgery.prune(model, X, share=0.5),
    '`convert(to="domain")`': lambda model: surgery.convert(model, to="domain", domains=3),
    "`fold`": lambda model: surgery.fold(model, X),
}


def planned(kind: str, operation: str) -> str:
    """Whether an operation changes the norm, refuses to, or leaves it as it is."""
    model = network(kind)
    try:
        plan = PLANS[operation](model)
    except NormsmithError:
        return "refused"
    plan.apply(partial=bool(plan.refusals))
    if any(f"{change.path}.".startswith("1.") for change in plan.changes):
        return "yes"
    return "refused" if any(f"{each.path}.".startswith("1.") for each in plan.refusals) else "stays"


@pytest.mark.parametrize("kind", OPERATIONS)
def test_what_an_operation_does_with_norms_of_a_kind(kind: str) -> None:
    assert {operation: planned(kind, operation) for operation in PLANS} == OPERATIONS[kind]
