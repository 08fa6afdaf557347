"""Claims between processes; what every database does is in the contract."""

import subprocess
import sys

import pytest

from normsmith.errors import StoreError
from normsmith.studies import _claims
from normsmith.studies._claims import new_owner
from normsmith.studies.store import Store


def test_other_processes_see_a_claim(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    with Store(url) as one, Store(url) as two:
        assert one.claims.take("one", "a")
        assert not two.claims.take("two", "a")
        assert two.claims.held("ab") == {"a"}


def test_claims_of_a_process_that_has_ended_are_given_up_and_those_of_others_stay():
    ended = subprocess.run(
        [sys.executable, "-c", "from normsmith.studies._claims import new_owner; print(new_owner())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    elsewhere = "elsewhere" + ended[ended.index("-") :]
    with Store("sqlite://") as store:
        owners = {"a": ended, "b": new_owner(), "c": elsewhere, "d": "a name of another kind"}
        assert all(store.claims.take(owner, key) for key, owner in owners.items())
        store.claims.drop_dead()
        assert store.claims.held("abcd") == {"b", "c", "d"}


def test_claims_are_given_up_while_another_study_writes(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/study.db"
    with Store(url) as one, Store(url) as two:
        assert one.claims.take("ended", "a")

        def is_dead(owner: str) -> bool:
            return two.claims.take("two", "b") and owner == "ended"

        monkeypatch.setattr(_claims, "_is_dead", is_dead)
        one.claims.drop_dead()
        assert one.claims.held("ab") == {"b"}


def test_claims_of_a_closed_store_are_refused():
    store = Store("sqlite://")
    store.close()
    with pytest.raises(StoreError, match="after close"):
        store.claims.take("one", "a")
