"""What a model is made of, and how data flow through it; nothing is changed.

Which file answers which question:

- How do data flow through a model? `trace` tells, `trace_by_running` with a batch and `trace_by_symbols` without; the
  answer is a `graph` of `events`, and `residual` finds the residual blocks in it. `passing` looks beyond what passes a
  result on, such as dropout or a `pooling`.
- What is a module? `kinds` tells producers, norms and activations; `batch_norms` says what a batch norm consists of,
  `read_batch_norm` reads one, `other_libraries` and `renorm_of_others` those that neither torch nor normsmith wrote;
  `behaviour` tries what a layer of an unknown class does; `hooks` recognises norms that hooks apply; `describe` puts a
  layer into one line.
- Which modules are meant, and who else holds them? `select` and `locations`, which knows what is shared.
- How is a model run without a trace? `forward` is the usual forward; `preserve` puts back what changes in a model,
  `isolation` what changes beside it.
- What is said of a module that stays as it is? A `remark`, or a refusal.
"""

from normsmith.anatomy.graph import Event, Graph, Residual
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.trace import trace

__all__ = ["Event", "Graph", "Refusal", "Remark", "Residual", "trace"]
