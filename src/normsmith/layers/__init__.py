"""nn.Modules: which statistics, whether to update, how they are corrected."""

from normsmith.layers import init
from normsmith.layers.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from normsmith.layers.batch_norm_act import (
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    BatchRenormAct1d,
    BatchRenormAct2d,
    BatchRenormAct3d,
)
from normsmith.layers.batch_renorm import (
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    LazyBatchRenorm1d,
    LazyBatchRenorm2d,
    LazyBatchRenorm3d,
)
from normsmith.layers.conditional_norm import (
    ConditionalBatchNorm1d,
    ConditionalBatchNorm2d,
    ConditionalBatchNorm3d,
    ConditionalNorm,
)
from normsmith.layers.contexts import accumulate, use_mask
from normsmith.layers.domain_norm import DomainBatchNorm1d, DomainBatchNorm2d, DomainBatchNorm3d, DomainNorm
from normsmith.layers.domains import use_domain
from normsmith.layers.frozen import freeze, unfreeze
from normsmith.layers.input_norm import InputNorm
from normsmith.layers.ranks import join_ranks
from normsmith.layers.recurrent import BatchNormGRU, BatchNormLSTM
from normsmith.layers.untraced import without_a_trace
from normsmith.layers.whitening import Whiten1d, Whiten2d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchNormGRU",
    "BatchNormLSTM",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "BatchRenormAct1d",
    "BatchRenormAct2d",
    "BatchRenormAct3d",
    "ConditionalBatchNorm1d",
    "ConditionalBatchNorm2d",
    "ConditionalBatchNorm3d",
    "ConditionalNorm",
    "DomainBatchNorm1d",
    "DomainBatchNorm2d",
    "DomainBatchNorm3d",
    "DomainNorm",
    "InputNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyBatchRenorm1d",
    "LazyBatchRenorm2d",
    "LazyBatchRenorm3d",
    "Whiten1d",
    "Whiten2d",
    "accumulate",
    "freeze",
    "init",
    "join_ranks",
    "unfreeze",
    "use_domain",
    "use_mask",
    "without_a_trace",
]
