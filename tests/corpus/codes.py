"""The rules of `normsmith check` by code and name: all that this corpus knows of them."""

from __future__ import annotations

_NAMES = """
    101 bias-before-norm  102 dropout-before-norm  103 double-norm  104 norm-on-output  105 norm-after-residual
    106 reused-norm  107 missing-norm  108 batch-norm-forbidden  109 placement  110 unregistered-norm
    111 degenerate-group
    201 inverted-momentum  202 unconverged-average  203 eps-dominates  204 batch-stats-in-eval  205 wrong-axis
    206 decayed-affine  207 missing-from-optimizer  208 low-precision-buffers  209 frozen-momentum  210 half-frozen
    301 tiny-batch  302 ragged-batch  303 accumulation-mismatch  304 repeated-update  305 frozen-but-updating
    306 eval-leak  307 rank-divergence  308 stale-average-model  309 training-in-eval  310 two-forwards
    401 raw-input  402 non-gaussian-input  403 train-eval-gap  404 stale-statistics  405 untrained-statistics
    406 non-iid-batches  407 padding-in-statistics  408 train-validation-shift  409 sample-leakage
    410 poisoned-statistics  411 dead-channel  412 mixture  413 checkpoint-without-statistics
    501 dead-relu  502 saturated  503 scale-by-depth  504 gradient-scale  505 update-ratio  506 covariate-drift
    507 renorm-clipping
"""


def codes(numbers: str) -> frozenset[str]:
    """The codes of numbers in a text: "301 303" are NS301 and NS303."""
    return frozenset(f"NS{number}" for number in numbers.split())


_WORDS = _NAMES.split()
RULES = {f"NS{number}": name for number, name in zip(_WORDS[::2], _WORDS[1::2], strict=True)}
"""The name of each rule by its code."""

INFORMS = codes("101 103 104 105 107 109 205 206 402 409 411")
"""Rules whose findings are information, never a warning or an error: evidence that they hurt is thin."""

STATISTICS = "202 403 404 405"
"""Four views of running statistics that do not fit: where one must fire, the others may."""

ABSENT = {
    "NS307": "between live ranks; here are only the files that each rank of a run has saved",
    "NS310": "the error under DistributedDataParallel, which needs a process group; here is the information for others",
}
"""What of a rule is not in the corpus, and why."""
