"""Torch's base classes, for `isinstance` and to derive from.

If one goes, name the public classes that it was the base of.
"""

from __future__ import annotations

import inspect

from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._python_dispatch import TorchDispatchMode

NormBase = _NormBase
"""The base of torch's batch norms and instance norms: their settings, γ, β and running statistics."""
NORMS_TAKE_BIAS = "bias" in inspect.signature(_NormBase.__init__).parameters
"""Whether torch's norms have an argument `bias`, and say in their repr what it is; those of torch 2.6 have none."""
TorchBatchNorm = _BatchNorm
"""The base of torch's own batch norms in all dimensions, lazy and synchronised ones too."""
LazyNormBase = _LazyNormBase
"""What makes a norm lazy: it takes the number of channels from its first input."""
TorchInstanceNorm = _InstanceNorm
"""The base of torch's instance norms in all dimensions."""
ConvTranspose = _ConvTransposeNd
"""The base of transposed convolutions in all dimensions."""
Dropout = _DropoutNd
"""The base of everything that drops out, elements or channels."""
DispatchMode = TorchDispatchMode
"""A block in which every kernel that torch calls goes through `__torch_dispatch__`; it has no public module."""
