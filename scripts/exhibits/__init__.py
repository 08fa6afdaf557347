"""The parts of the gallery page: see scripts/gallery.py.

`remarks/QUESTION.json` has remarks on why a claim may not have held: each names a task, a hypothesis and the verdicts
that it expects, and is shown where the verdict is one of these. It quotes no figure: those come from the results.
"""
