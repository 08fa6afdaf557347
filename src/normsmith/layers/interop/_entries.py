"""The entries of another library's state: looked up by name, converted and checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normsmith.errors import InputError


class Entries:
    """The entries of a foreign state below a prefix, checked as they are read."""

    def __init__(self, source: str, state: Mapping[str, Any], prefix: str, member: int | None = None) -> None:
        self.source = source
        self._all = sorted(state)
        self._prefix = prefix
        self._member = member
        self._state = {
            name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
        }

    def only(self, required: set[str], optional: set[str]) -> None:
        """Refuse states with fewer or other names."""
        missing, unknown = required - self._state.keys(), self._state.keys() - required - optional
        if missing or unknown:
            at = f" below the prefix {self._prefix!r}" if self._prefix else ""
            may = f", perhaps {', '.join(sorted(optional))}" if optional else ""
            raise InputError(
                f"import from {self.source}: expected {', '.join(sorted(required))}{may}{at}; "
                f"missing: {', '.join(sorted(missing)) or 'nothing'}; "
                f"unknown: {', '.join(sorted(unknown)[:8]) or 'nothing'}; "
                f"give the state of one layer, by prefix=... out of a whole model's: {self._all[:8]}"
            )

    def if_there(self, name: str) -> str | None:
        """The name, if the state has it."""
        return name if name in self._state else None

    def state(
        self, mean: str, var: str, steps: str | None, weight: str | None, bias: str | None
    ) -> dict[str, Tensor]:
        """The state of our layer from entries of these names; of γ and β alone the other is the identity."""
        running_mean = self.vector(mean)
        channels = len(running_mean)
        state = {"running_mean": running_mean, "running_var": self.vector(var, channels)}
        if bool((state["running_var"] < 0).any()):
            raise InputError(
                f"import from {self.source}: expected {var} ≥ 0, got a smallest of "
                f"{state['running_var'].min().item():g}; standard deviations and variances may be mixed up"
            )
        count = 0.0 if steps is None else self.number(steps)
        if count < 0 or count != int(count):
            raise InputError(
                f"import from {self.source}: expected {steps} to be a count of steps, got {count:g}"
            )
        state["num_batches_tracked"] = torch.tensor(int(count))
        if weight is not None or bias is not None:
            state["weight"] = torch.ones(channels) if weight is None else self.vector(weight, channels)
            state["bias"] = torch.zeros(channels) if bias is None else self.vector(bias, channels)
        return state

    def vector(self, name: str, channels: int | None = None) -> Tensor:
        """An entry of shape (channels,), finite."""
        value = self._read(name)
        if value.ndim != 1 or (channels is not None and len(value) != channels):
            shape = "(channels,)" if channels is None else f"({channels},)"
            stacked = "; choose one of the stacked layers by member=..." if value.ndim == 2 else ""
            raise InputError(
                f"import from {self.source}: expected {name} of shape {shape}, got {tuple(value.shape)}{stacked}"
            )
        if not bool(value.isfinite().all()):
            raise InputError(
                f"import from {self.source}: expected finite values in {name}, got NaN or infinite ones at channels "
                f"{(~value.isfinite()).nonzero().flatten().tolist()[:5]}; the layer has diverged"
            )
        return value

    def number(self, name: str) -> float:
        """An entry that is a single number."""
        value = self._read(name)
        if value.numel() != 1:
            raise InputError(
                f"import from {self.source}: expected {name} to be one number, got shape {tuple(value.shape)}"
            )
        return value.item()

    def _read(self, name: str) -> Tensor:
        """A copy of an entry as a tensor, float32 or float64; of stacked layers, the member's part."""
        value = self._state[name]
        if isinstance(value, Tensor):
            entry = value.detach().cpu().clone()
        else:
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":  # bfloat16 of jax
                array = array.astype(np.float32)
            entry = torch.from_numpy(np.array(array))
        if self._member is not None:
            if entry.ndim == 0 or not -len(entry) <= self._member < len(entry):
                raise InputError(
                    f"import from {self.source}: expected {name} stacked along its first axis with a member "
                    f"{self._member}, got shape {tuple(entry.shape)}"
                )
            entry = entry[self._member]
        return entry if entry.dtype == torch.float64 else entry.float() if entry.ndim else entry
