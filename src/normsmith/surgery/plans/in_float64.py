"""Whether a difference in float32 is more than rounding: the same change, tried once more in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import error_text
from normsmith._torch import map_leaves
from normsmith.anatomy.float64 import has_float64
from normsmith.errors import SurgeryError
from normsmith.surgery.plans.verify import DifferenceError, Verification


def decided_in_float64(
    differing: DifferenceError,
    copied: Callable[[], nn.Module],
    batch: Any,
    again: Callable[..., Verification],
) -> Verification:
    """What a verification says in float64, after it found other outputs than expected in the model's own precision.

    Rounding in float32 can make outputs differ by more than any fixed tolerance, in deep networks or after channels of
    tiny variance; a change that is wrong differs in float64 as much.

    Args:
        differing: what was found.
        copied: makes a deep copy of the model, whose parameters and buffers of floating point become float64.
        batch: its tensors of floating point become float64 too.
        again: `again(model, batch)` makes the same change to the copy, and verifies it.

    Raises:
        SurgeryError: the outputs differ in float64 too, or it could not be tried in float64, which is said.
    """
    if differing.dtype == torch.float64 or not math.isfinite(differing.difference):
        raise differing
    own = _name(differing.dtype)
    try:
        result = again(_doubled(copied()), map_leaves(_as_double, batch))
    except DifferenceError as error:
        if error.dtype == torch.float64:
            raise SurgeryError(
                f"{differing} in {own}, and of {error.difference:.3g} in float64"
            ) from differing
        reason = f"outputs stay {_name(error.dtype)} in a copy of float64"
    except SurgeryError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  somebody's module
        reason = error_text(error)
    else:
        if result.precision == "float64":
            return replace(result, rounding=(own, differing.difference))
        reason = f"outputs stay {result.precision} in a copy of float64"
    raise SurgeryError(f"{differing} in {own}, which decided: not tried in float64, {reason}") from differing


def _doubled(model: nn.Module) -> nn.Module:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    without = sorted(device.type for device in devices if not has_float64(device))
    if without:
        raise SurgeryError(f"{without[0]} has no float64")
    return model.double()


def _as_double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
