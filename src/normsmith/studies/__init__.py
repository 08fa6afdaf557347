"""Studies: controlled, paired experiments that answer a question for one network and its data.

Needs the extra `study`.
"""

from normsmith import _extras

with _extras.imports_of_extra("study", "normsmith.studies"):
    from normsmith.studies.executors.cluster import RayExecutor
    from normsmith.studies.executors.local import LocalExecutor
    from normsmith.studies.named_trials import NamedTrial, named_trials
    from normsmith.studies.progress import Progress
    from normsmith.studies.question import Question, every_question, select
    from normsmith.studies.results import StudyResult, Verdict
    from normsmith.studies.settings import Settings
    from normsmith.studies.sinks import Sink
    from normsmith.studies.store import Store
    from normsmith.studies.study import run_study

__all__ = [
    "LocalExecutor",
    "NamedTrial",
    "Progress",
    "Question",
    "RayExecutor",
    "Settings",
    "Sink",
    "Store",
    "StudyResult",
    "Verdict",
    "every_question",
    "named_trials",
    "run_study",
    "select",
]
