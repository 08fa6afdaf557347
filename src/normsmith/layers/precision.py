"""Running statistics that never fall below float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of


class Float32Statistics(nn.Module):
    """A module whose running statistics stay float32 at least, whatever `.half()` or a checkpoint says."""

    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_var", "running_std")
    """The buffers that are kept so, where the module has them."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: buffers_of(self).get(name) for name in self.statistics}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = buffers_of(self).get(name)
            if old is not None and new is not None and _is_below_float32(new):
                # from the old values: their digits would be gone in half precision
                buffers_of(self)[name] = old.to(device=new.device, dtype=torch.float32)
        return self

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._at_least_float32()

    def _at_least_float32(self) -> None:
        for name in self.statistics:
            buffer = buffers_of(self).get(name)
            if buffer is not None and _is_below_float32(buffer) and not is_lazy(buffer):
                buffers_of(self)[name] = buffer.float()


def _is_below_float32(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4
