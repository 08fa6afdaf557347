"""Names for the shapes of tensors, checked under test and free elsewhere.

jaxtyping is a development dependency: the test setup imports it before normsmith. Where it has not been imported, every
name below is plain `torch.Tensor`.
"""

import sys
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    Batch: TypeAlias = Tensor
    Elements: TypeAlias = Tensor
    PerChannel: TypeAlias = Tensor
    PerGroup: TypeAlias = Tensor
    PerSample: TypeAlias = Tensor
    Spread: TypeAlias = Tensor
elif sys.modules.get("jaxtyping") is not None:
    from jaxtyping import Float, Shaped

    Batch = Float[Tensor, "batch channels *space"]
    Elements = Shaped[Tensor, "#batch 1 *#space"]
    PerChannel = Float[Tensor, "channels"]
    PerGroup = Shaped[Tensor, "groups #channels"]
    PerSample = Float[Tensor, "batch #channels"]
    Spread = Float[Tensor, "#batch #channels *ones"]
else:
    Batch = Elements = PerChannel = PerGroup = PerSample = Spread = Tensor
