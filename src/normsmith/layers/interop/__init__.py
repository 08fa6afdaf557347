"""Import batch renormalization that other libraries have trained; export state dicts for torch's own layers.

Nothing of sb3-contrib, SBX, torchrl or Keras is imported: states are mappings of the names those libraries use to
arrays (numpy's, torch's, or anything `numpy.asarray` reads). Each function names the file its facts are from.
"""

from normsmith.layers.interop.imported import ImportedRenorm
from normsmith.layers.interop.renorm import from_keras, from_sb3, from_sbx, from_torchrl
from normsmith.layers.interop.to_torch import to_torch

__all__ = ["ImportedRenorm", "from_keras", "from_sb3", "from_sbx", "from_torchrl", "to_torch"]
