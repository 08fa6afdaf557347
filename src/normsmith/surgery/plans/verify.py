"""Whether a model computes, before and after a change, what the change says it does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normsmith._text import error_text, number
from normsmith.anatomy.float64 import in_float64
from normsmith.anatomy.forward import Forward, check_runnable, copied, outputs
from normsmith.anatomy.preserve import preserved
from normsmith.errors import SurgeryError
from normsmith.layers.domains import some_domain
from normsmith.surgery.plans.in_place import nothing_in_place

Outcome = Literal["same", "may differ", "differs"]
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 3e-2
"""For half precision: a few units of its last digit, through a deep network."""


_SAYS: dict[Outcome, str] = {
    "same": "the outputs stay the same",
    "differs": "the outputs change",
    "may differ": "the outputs may change",
}


@dataclass(frozen=True)
class Expectation:
    """What an operation does to the outputs, in evaluation and in training; in one domain, if it says which."""

    evaluation: Outcome = "may differ"
    training: Outcome = "may differ"
    domain: str | int | None = None


@dataclass(frozen=True)
class Verification:
    """How far outputs before and after a change are apart: the largest difference, as a share of the largest output.

    - `evaluation`, `training`: in these modes; `training` is None where the plan expects nothing of it.
    - `precision`: that of the outputs that decided, the coarsest of them.
    - `rounding`: where float64 decided about a model of another precision: this one, and the difference in it.
    - `unreached`: the paths of new modules that the forward of this batch did not call.
    """

    expects: Expectation
    evaluation: float
    training: float | None
    unreached: tuple[str, ...] = ()
    precision: str = "float32"
    rounding: tuple[str, float] | None = None

    def __str__(self) -> str:
        differences = {"evaluation": self.evaluation, "training": self.training}
        rows = [
            f"{mode}: {_SAYS[getattr(self.expects, mode)]}; largest difference {number(difference, 2)} in "
            f"{self.precision}"
            for mode, difference in differences.items()
            if difference is not None
        ]
        if self.rounding is not None:
            precision, difference = self.rounding
            rows.append(
                f"decided in {self.precision}: the difference of {number(difference, 2)} in {precision} is rounding"
            )
        rows += [f"not reached by this batch: {path}" for path in self.unreached]
        return "\n".join(rows)


class DifferenceError(SurgeryError):
    """Outputs are not as before, by `difference`, a share of the largest; `dtype` is that of the coarsest output."""

    def __init__(self, text: str, difference: float, dtype: torch.dtype) -> None:
        super().__init__(text)
        self.difference, self.dtype = difference, dtype


def compare(
    before: list[Tensor], after: list[Tensor], expected: Outcome, when: str, tolerance: float | None
) -> float:
    """The largest relative difference. Raises SurgeryError unless it is what is expected.

    `DifferenceError` where they should be the same.
    """
    if [t.shape for t in before] != [t.shape for t in after]:
        shapes = [[tuple(tensor.shape) for tensor in outputs_] for outputs_ in (before, after)]
        raise SurgeryError(f"in {when}: expected outputs of shapes {shapes[0]}, got {shapes[1]}")
    if not before:
        raise SurgeryError(
            f"in {when}: expected tensors of floating point as output, got none; give forward="
        )
    difference = max(_difference(one, other) for one, other in zip(before, after, strict=True))
    allowed = _TOLERANCE.get(_coarsest(before), _COARSE) if tolerance is None else tolerance
    if expected == "same" and not difference <= allowed:
        text = (
            f"in {when}: expected the outputs as before, to {allowed:g} of the largest; got a difference of "
        )
        raise DifferenceError(f"{text}{difference:.3g}", difference, _coarsest(before))
    if expected == "differs" and difference == 0:
        raise SurgeryError(
            f"in {when}: expected other outputs than before, got the same to the last bit; does the batch reach the "
            "changed modules?"
        )
    return difference


def verify(
    model: nn.Module,
    changed: AbstractContextManager[nn.Module],
    new: dict[nn.Module, str],
    expects: Expectation,
    batch: Any,
    forward: Forward,
    tolerance: float | None,
) -> Verification:
    """Run before, and after inside the context `changed`, which takes the change back.

    Both also with nothing in place: where that was the same before the change, it must be so after it, whatever is
    expected of the outputs.
    """
    check_runnable(model)
    modes = ["evaluation"] + ["training"] * (expects.training != "may differ")
    with some_domain(model, expects.domain):
        before = [_run(model, batch, forward, mode, "before") for mode in modes]
        apart = [_run_apart(model, batch, forward, mode, "before") for mode in modes]
    with changed as other, some_domain(other, expects.domain), preserved(other), _Noting(new) as reached:
        after = [_run(other, batch, forward, mode, "after") for mode in modes]
        apart_after = [_run_apart(other, batch, forward, mode, "after") for mode in modes]
    wanted = [expects.evaluation, expects.training]
    rows = zip(before, after, wanted[: len(modes)], modes, strict=True)
    differences = [compare(*row, tolerance) for row in rows]
    for pairs in zip(
        zip(before, apart, strict=True), zip(after, apart_after, strict=True), modes, strict=True
    ):
        _check_overwritten(*pairs, tolerance)
    return Verification(
        expects,
        differences[0],
        differences[1] if len(differences) > 1 else None,
        tuple(path for module, path in new.items() if module not in reached),
        str(_coarsest(before[0])).removeprefix("torch."),
    )


def _run(model: nn.Module, batch: Any, forward: Forward, mode: str, when: str) -> list[Tensor]:
    # a forward in training moves the statistics, and the next mode must not see that
    with preserved(model):
        try:
            return outputs(model, copied(batch), forward, training=mode == "training")
        except Exception as error:
            raise SurgeryError(
                f"a forward in {mode}, {when} the change, failed on this batch: {error_text(error)}"
            ) from error


_Pair = tuple[list[Tensor], list[Tensor] | None]
"""Outputs as the model is, and with nothing in place; None where nothing is."""


def _run_apart(model: nn.Module, batch: Any, forward: Forward, mode: str, when: str) -> list[Tensor] | None:
    with nothing_in_place(model) as some:
        return _run(model, batch, forward, mode, when) if some else None


def _check_overwritten(before: _Pair, after: _Pair, when: str, tolerance: float | None) -> None:
    """Raise DifferenceError if something is overwritten after the change that others need, and was not before it."""
    (here, here_apart), (there, there_apart) = before, after
    if there_apart is None:
        return
    try:
        compare(here, here if here_apart is None else here_apart, "same", when, tolerance)
    except SurgeryError:
        return  # the model lives on what it overwrites: without that it is another one
    try:
        compare(there_apart, there, "same", when, tolerance)
    except DifferenceError as error:
        raise DifferenceError(
            f"in {when}: after the change a layer overwrites in place what others need; with inplace=False everywhere "
            f"the outputs are others, by a difference of {error.difference:.3g}",
            error.difference,
            error.dtype,
        ) from None


class _Noting:
    """Which of some modules are called."""

    def __init__(self, modules: dict[nn.Module, str]) -> None:
        self._noted = modules
        self.reached: set[nn.Module] = set()

    def __enter__(self) -> set[nn.Module]:
        self._handles = [
            module.register_forward_pre_hook(lambda called, _: self.reached.add(called))
            for module in self._noted
        ]
        return self.reached

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _difference(one: Tensor, other: Tensor) -> float:
    if one.numel() == 0 or torch.equal(one, other):
        return 0.0
    one, other = in_float64(one), in_float64(other)
    finite = one.isfinite()
    beyond, theirs = one[~finite], other[~finite]
    alike = (beyond == theirs) | (beyond.isnan() & theirs.isnan())
    if not (torch.equal(finite, other.isfinite()) and bool(alike.all())):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    scale = one[finite].abs().max().clamp(min=1e-30)
    return float(((one - other)[finite].abs().max() / scale).item())


def _coarsest(tensors: list[Tensor]) -> torch.dtype:
    return max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).eps)
