"""What a model is made of, and how data flow through it; nothing is changed.

Which file answers which question:

- How do data flow through a model? `trace` tells, `trace_by_running` with a batch and `trace_by_symbols` without; the
  answer is a `graph` of `events`, and `residual` finds the residual blocks in it. `passing` looks beyond what passes a
  result on, such as dropout or a `pooling`; `moves` knows the calls that only put numbers elsewhere.
- Who overwrites a tensor, and who then reads it? `memory` follows that while a trace is made, `storage` knows
  which tensors share elements, and `aliasing` answers for one call.
- What is a module? `kinds` tells producers, norms and activations; `batch_norms` says what a batch norm consists of,
  `affine` the scale and shift that it amounts to, `read_batch_norm` reads one, `other_libraries` and
  `renorm_of_others` those that neither torch nor normsmith wrote; `behaviour` tries what a layer of an unknown class
  does, and `linear_layers` whether one is linear; `hooks` recognises norms that hooks apply; `describe` puts a layer,
  or a call, into one line.
- Which running statistics can be no data's? `broken_statistics` tells; `float64` says where that precision exists.
- Which modules are meant, and who else holds them? `select` and `locations`, which knows what is shared. `holders`
  tells which attributes of a module the forwards of others read, from their `source` code.
- How is a model run without a trace? `forward` is the usual forward; `preserve` puts back what changes in a model,
  `isolation` what changes beside it.
- How do the lengths of a padded batch run through a model? The room `lengths`, whose index says more.
- What is said of a module that stays as it is? A `remark`, or a refusal.
"""

from normsmith.anatomy.graph import Event, Graph, Residual
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.trace import trace

__all__ = ["Event", "Graph", "Refusal", "Remark", "Residual", "trace"]
