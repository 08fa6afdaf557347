"""Results, for readers: of a study on a terminal, as an offline HTML file, JSON and CSV; of checks and measurements
as HTML."""

from normsmith import _extras

with _extras.imports_of_extra("study", "normsmith.report"):
    from normsmith.report.check_html import findings_to_html
    from normsmith.report.data import to_csv, to_json
    from normsmith.report.html import render_html, write_html
    from normsmith.report.smoothness_html import smoothness_to_html
    from normsmith.report.text import print_verdicts
    from normsmith.report.trials.export import export_trials
    from normsmith.report.write import check_writable

__all__ = [
    "check_writable",
    "export_trials",
    "findings_to_html",
    "print_verdicts",
    "render_html",
    "smoothness_to_html",
    "to_csv",
    "to_json",
    "write_html",
]
