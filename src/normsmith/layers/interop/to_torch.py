"""State dicts for models of torch's own batch norm layers."""

from __future__ import annotations

from torch import Tensor, nn

from normsmith.layers.statistics import StatisticsBase


def to_torch(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model, for the same model made of torch's own batch norm layers.

    Our batch norms have torch's keys as they are. Two things differ, and are settled here: `running_std`
    (`track="std"`) becomes running_var = running_std² − eps, with which torch evaluates the same; and running
    statistics, float32 at least with us, take the dtype of γ in half precision, so that `assign=True` too gives
    layers that torch can run.

    >>> from normsmith.layers import BatchRenorm1d
    >>> layer = BatchRenorm1d(1, schedule="keras", track="std")
    >>> sorted(to_torch(layer)), nn.BatchNorm1d(1).load_state_dict(to_torch(layer))
    (['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight'], <All keys matched successfully>)
    """
    state: dict[str, Tensor] = dict(model.state_dict())
    for path, module in model.named_modules():
        if not isinstance(module, StatisticsBase):
            continue
        prefix = f"{path}." if path else ""
        std = state.pop(f"{prefix}running_std", None)
        if std is not None:
            state[f"{prefix}running_var"] = (std**2 - module.epsilon).clamp(min=0)
        if module.weight is not None:
            for name in ("running_mean", "running_var"):
                if f"{prefix}{name}" in state:
                    state[f"{prefix}{name}"] = state[f"{prefix}{name}"].to(module.weight.dtype)
    return state
