"""How the lengths of a padded batch run through a model: each position is what it would be without the padding.

- What is a tensor, dimension by dimension? `layouts` says: samples, steps with lengths, or anything else.
- Who keeps that for each tensor? The `tracker`, for one block of `use_lengths`, which is in `block`.
- How is every call of torch's seen? `following` is a mode that gives each to its rule; `rules` has these by families.
- What do the model's own code and the padded sizes? `sizes` are numbers that know those of each sample.
- What is followed as a whole? `modules`: our norms and recurrent layers, and those that the user has a rule for.
- What may be given? `given` checks lengths, layouts and rules.
"""

from normsmith.anatomy.lengths.block import Lengths, use_lengths

__all__ = ["Lengths", "use_lengths"]
