"""What becomes of lengths in each of torch's functions: a rule for every family of them.

`elementwise`, `shapes` and `indexing` pass numbers on; `windows`, `averages`, `resampling`, `products`, `norms` and
`recurrent` compute from several positions, and are made not to see what is not valid.
"""

from normsmith.anatomy.lengths.rules import (
    averages,
    elementwise,
    indexing,
    norms,
    products,
    recurrent,
    resampling,
    shapes,
    windows,
)

RULES = {
    **elementwise.RULES,
    **shapes.RULES,
    **indexing.RULES,
    **windows.RULES,
    **averages.RULES,
    **resampling.RULES,
    **products.RULES,
    **norms.RULES,
    **recurrent.RULES,
}
"""The rule of each function, by its plain name."""

__all__ = ["RULES"]
