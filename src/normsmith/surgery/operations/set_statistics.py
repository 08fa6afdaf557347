"""Running statistics given as numbers: how measured ones get into a model, here or in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from normsmith._text import interval, path_text
from normsmith._torch import buffers_of
from normsmith.anatomy.broken_statistics import BrokenStatistics, broken_values
from normsmith.anatomy.remark import Remark
from normsmith.errors import SurgeryError
from normsmith.layers.batch_renorm import RenormBase
from normsmith.measure.layers import MeasuredLayer, measurable_layers
from normsmith.surgery.plans.edits import ValueEdit
from normsmith.surgery.plans.operation import operation
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation


@operation("set_statistics")
def set_statistics(model: nn.Module, statistics: Mapping[str, Mapping[str, Sequence[float]]]) -> Plan:
    """Plan to write running statistics into batch norm layers; their counters and momentum stay as they are.

    It is what a `recalibrate` in one process hands over to another: the numbers are in the plan's JSON.

    Args:
        model: any module.
        statistics: path of a layer → name of a buffer (`running_mean`, `running_var`, `running_std`) → numbers,
            one for each channel.

    Raises:
        SurgeryError: a layer is not there, has no such statistics, or another number of channels; a number is not
            finite, or a variance below zero.

    >>> model = nn.Sequential(nn.BatchNorm1d(2))
    >>> print(set_statistics(model, {"0": {"running_mean": [1.0, 2.0]}}))
    statistics: 1 change, 0 refusals
      0  running statistics → running_mean 1 to 2  as given
    """
    measurable = measurable_layers(model, inputs=False)
    layers = {measured.path: measured for measured in measurable.some_for("set_statistics")}
    changes: list[Change] = []
    edits: list[ValueEdit] = []
    warnings: list[Remark] = []
    for path, given in statistics.items():
        if path not in layers:
            raise SurgeryError(
                f"set_statistics: expected paths of batch norm layers with running statistics, got {path!r}; there "
                f"are {', '.join(map(repr, layers))}"
            )
        new = {name: _checked(layers[path], name, values) for name, values in given.items()}
        edits += [ValueEdit(layers[path].layer, name, tensor) for name, tensor in new.items()]
        before, after = (_fault(layers[path], {}), _fault(layers[path], new))
        changes.append(_change(layers[path], new, None if after is not None else before))
        if after is not None:
            warnings.append(Remark(path, after.advice))
    # training goes by the batch, but for renorm's correction towards the running statistics
    renorm = any(isinstance(layers[path].layer, RenormBase) for path in statistics)
    expects = Expectation(training="may differ" if renorm else "same")
    return Plan(
        "statistics",
        model,
        changes=tuple(changes),
        edits=tuple(edits),
        expects=expects,
        warnings=tuple(warnings),
    )


def _checked(measured: MeasuredLayer, name: str, values: Sequence[float]) -> Tensor:
    """The new values of a buffer, in its dtype."""
    held = buffers_of(measured.layer).get(name) if name.startswith("running_") else None
    where = f"set_statistics: {path_text(measured.path)}"
    if held is None or not held.is_floating_point():
        raise SurgeryError(f"{where}: expected running_mean, running_var or running_std, got {name!r}")
    try:
        new = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise SurgeryError(f"{where}: expected numbers as {name}, got {values!r}") from error
    if new.shape != held.shape:
        got = len(new) if new.ndim == 1 else f"shape {tuple(new.shape)}"
        raise SurgeryError(f"{where}: expected {name} of {len(held)} channels, got {got}")
    cast = new.to(held)
    wrong = ~cast.isfinite()
    if name != "running_mean":
        wrong |= new < 0
    if wrong.any():
        raise SurgeryError(
            f"{where}: expected finite numbers{'' if name == 'running_mean' else ' of at least 0'} that fit "
            f"{held.dtype} as {name}, got {new[wrong][0].item():g}"
        )
    return cast


def _fault(measured: MeasuredLayer, new: Mapping[str, Tensor]) -> BrokenStatistics | None:
    """What is wrong with the running statistics of a layer once some have new values."""
    return broken_values({**buffers_of(measured.layer), **new}, measured.epsilon)


def _change(measured: MeasuredLayer, new: Mapping[str, Tensor], healed: BrokenStatistics | None) -> Change:
    # only what is asked for: an EMA copy, to which the plan goes too, has other values now
    after = ", ".join(f"{name} {extent(tensor)}" for name, tensor in new.items())
    why = "as given" if healed is None else f"as given; heals: {healed.text}"
    return Change(measured.path, "running statistics", after, why, measured.also)


def extent(values: Tensor) -> str:
    """The range of some numbers.

    >>> extent(torch.tensor([3.0, 1.0]))
    '1 to 3'
    """
    return interval(values.min().item(), values.max().item())
