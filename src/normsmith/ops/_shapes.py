"""Names for the shapes of tensors, checked under test and free elsewhere.

jaxtyping is a development dependency: the test setup imports it before normsmith. When nobody has, every name
below is plain `torch.Tensor`.
"""

import sys
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING or "jaxtyping" not in sys.modules:
    Batch = Elements = PerChannel = PerGroup = PerSample = Spread = Tensor
else:
    from jaxtyping import Float, Shaped

    Batch = Float[Tensor, "batch channels *space"]
    Elements = Shaped[Tensor, "batch 1 *#space"]
    Spread = Float[Tensor, "#batch #channels *ones"]
    PerSample = Float[Tensor, "batch #channels"]
    PerGroup = Shaped[Tensor, "groups #channels"]
    PerChannel = Float[Tensor, "channels"]
