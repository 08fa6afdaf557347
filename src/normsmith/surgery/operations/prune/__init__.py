"""Remove channels whose γ says that they do little: steps → channels → cuts, and the plan in prune.py."""
