"""Everything normsmith raises on purpose.

NormsmithError
├── InputError (ValueError)        an argument or tensor is not what the call needs
├── TaskError (ValueError)         a task cannot be loaded or does not do what a task must
├── SurgeryError (ValueError)      a model cannot be changed as asked
├── LengthsError (ValueError)      lengths cannot be followed through a model
├── StudyError (ValueError)        a study cannot be run as asked
├── StoreError (RuntimeError)      a store cannot be read or written
├── ReportError (RuntimeError)     a report cannot be written
├── BackendError (RuntimeError)    a forced backend cannot serve the call
├── SyncError (RuntimeError)        ranks that share statistics did not all arrive
└── MissingExtraError (ImportError) an optional dependency is not installed

Messages say what was expected, what came, where, and what to do.
"""


class NormsmithError(Exception):
    """Base of every error that normsmith raises on purpose."""


class InputError(NormsmithError, ValueError):
    """An argument or a tensor is not what the call needs."""


class TaskError(NormsmithError, ValueError):
    """A task cannot be loaded, or does not do what a task must."""


class SurgeryError(NormsmithError, ValueError):
    """A model cannot be changed as asked."""


class LengthsError(NormsmithError, ValueError):
    """The lengths of a padded batch cannot be followed through a model."""


class StudyError(NormsmithError, ValueError):
    """A study cannot be run as asked."""


class StoreError(NormsmithError, RuntimeError):
    """A store of trials cannot be read or written."""


class ReportError(NormsmithError, RuntimeError):
    """A report cannot be written."""


class BackendError(NormsmithError, RuntimeError):
    """A backend that was asked for by name cannot serve the call."""


class SyncError(NormsmithError, RuntimeError):
    """Ranks that share statistics did not all arrive in time."""


class MissingExtraError(NormsmithError, ImportError):
    """An optional dependency is not installed."""
