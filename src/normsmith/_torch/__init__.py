"""The private names of torch that normsmith uses, each in one function that says what it needs.

No other part of the package uses one. A name is there in every torch from 2.6, the oldest that is declared, to 2.15,
unless its docstring says otherwise. When torch takes one away, or changes what it means, a test in tests/_torch fails,
and only the function here has to be written anew.

Two private methods of `nn.Module` cannot stand here, because layers override them: `_apply`, which `module.to(...)`,
`module.half()` and the like call, and `_load_from_state_dict`, which `module.load_state_dict(...)` calls. Tests say
that torch still calls both. `_check_input_dim` of torch's norms is overridden as well; our forwards call it.
"""

from normsmith._torch.allocation import empty_on_cpu
from normsmith._torch.classes import (
    NORMS_TAKE_BIAS,
    ConvTranspose,
    DispatchMode,
    Dropout,
    LazyNormBase,
    NormBase,
    TorchBatchNorm,
    TorchInstanceNorm,
)
from normsmith._torch.compiler import (
    COMPILED_PREFIX,
    compiled_module,
    compiler_callback,
    is_compiled_in_place,
    is_compiler_loaded,
    is_exporting,
    is_functional,
    is_recording,
    mark_constant,
    name_triton_kernels,
)
from normsmith._torch.hooks import (
    backward_hooks_of,
    forward_hooks_of,
    forward_pre_hooks_of,
    hand_over_hooks,
    keyword_pre_hooks_of,
    share_hooks,
)
from normsmith._torch.likeness import alike, is_as_stored
from normsmith._torch.modules import (
    BUFFERS,
    PARAMETERS,
    buffers_of,
    children_of,
    children_so_far,
    convert_tensors,
    load_own_state,
    parameters_of,
)
from normsmith._torch.plain import (
    applied,
    runs_alone,
    runs_plainly,
)
from normsmith._torch.processes import (
    differentiable_sum,
    timeout_of,
)
from normsmith._torch.recomputation import (
    backward_number,
    checkpointed_segment,
    recomputed_segment,
)
from normsmith._torch.transforms import (
    for_captured,
    has_function_transforms,
    increment_versions,
    is_batched_gradient,
    is_function_wrapper,
    is_mapped,
    is_traced_or_transformed,
    is_transformed,
    number_of_dispatch_modes,
    version_of,
    without_torch_functions,
)
from normsmith._torch.trees import (
    leaves_and_layout,
    leaves_of,
    map_leaves,
    with_layout,
)

__all__ = [
    "BUFFERS",
    "COMPILED_PREFIX",
    "NORMS_TAKE_BIAS",
    "PARAMETERS",
    "ConvTranspose",
    "DispatchMode",
    "Dropout",
    "LazyNormBase",
    "NormBase",
    "TorchBatchNorm",
    "TorchInstanceNorm",
    "alike",
    "applied",
    "backward_hooks_of",
    "backward_number",
    "buffers_of",
    "checkpointed_segment",
    "children_of",
    "children_so_far",
    "compiled_module",
    "compiler_callback",
    "convert_tensors",
    "differentiable_sum",
    "empty_on_cpu",
    "for_captured",
    "forward_hooks_of",
    "forward_pre_hooks_of",
    "hand_over_hooks",
    "has_function_transforms",
    "increment_versions",
    "is_as_stored",
    "is_batched_gradient",
    "is_compiled_in_place",
    "is_compiler_loaded",
    "is_exporting",
    "is_function_wrapper",
    "is_functional",
    "is_mapped",
    "is_recording",
    "is_traced_or_transformed",
    "is_transformed",
    "keyword_pre_hooks_of",
    "leaves_and_layout",
    "leaves_of",
    "load_own_state",
    "map_leaves",
    "mark_constant",
    "name_triton_kernels",
    "number_of_dispatch_modes",
    "parameters_of",
    "recomputed_segment",
    "runs_alone",
    "runs_plainly",
    "share_hooks",
    "timeout_of",
    "version_of",
    "with_layout",
    "without_torch_functions",
]
