"""Studies: controlled, paired experiments that answer a question for one network and its data.

Needs the extra `study`.
"""

from normsmith import _extras

with _extras.imports_of_extra("study", "normsmith.studies"):
    from normsmith.studies.executors.cluster import RayExecutor
    from normsmith.studies.executors.local import LocalExecutor
    from normsmith.studies.progress import Progress
    from normsmith.studies.question import Question, every_question, select
    from normsmith.studies.results import StudyResult, Verdict
    from normsmith.studies.settings import Settings
    from normsmith.studies.store import Store
    from normsmith.studies.study import run_study

__all__ = [
    "LocalExecutor",
    "Progress",
    "Question",
    "RayExecutor",
    "Settings",
    "Store",
    "StudyResult",
    "Verdict",
    "every_question",
    "run_study",
    "select",
]
