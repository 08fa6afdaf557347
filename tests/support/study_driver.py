"""A study's driver as a process: runs six trials on a store, and says which it ran and which were run elsewhere."""

import sys

from normsmith.studies.arms import AS_IS
from normsmith.studies.executors.cluster import RayExecutor
from normsmith.studies.executors.local import LocalExecutor
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.sharing import Sharing
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Trial
from normsmith.tasks import load


def main(name: str, url: str, seconds: str, address: str = "") -> None:
    """Run the trials of a task in one worker, of this machine or of a Ray cluster; claims hold for some seconds."""
    reference = TaskReference.to(load(name), name)
    trials = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(6)]
    executor = RayExecutor(address) if address else LocalExecutor()

    def finished(trial, outcome):
        store.put(
            Record(trial.spec(), outcome.status, outcome.reason, outcome.measurements(), outcome.seconds, {})
        )
        print("ran", trial.seed, outcome.status, flush=True)  # noqa: T201

    def elsewhere(trial, record):
        print("elsewhere", trial.seed, record.status, flush=True)  # noqa: T201

    with Store(url, claim_seconds=float(seconds)) as store, executor.open(reference, 1, 600.0) as workers:
        keys = {trial: Record(trial.spec(), "finished", "", {}, 0.0, {}).key for trial in trials}
        there = store.get(keys.values())
        missing = {trial: key for trial, key in keys.items() if key not in there}
        with Sharing(store, missing, elsewhere, lambda count: None) as sharing:
            workers.run(sharing.trials(), finished, sharing.tick)


if __name__ == "__main__":
    main(*sys.argv[1:])
