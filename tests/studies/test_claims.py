"""Claims between processes; what every database does is in the contract."""

import pytest

from normsmith.errors import StoreError
from normsmith.studies.store import Store


def test_other_processes_see_a_claim(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    with Store(url) as one, Store(url) as two:
        assert one.claims.take("one", "a")
        assert not two.claims.take("two", "a")
        assert two.claims.held("ab") == {"a"}


def test_claims_of_a_closed_store_are_refused():
    store = Store("sqlite://")
    store.close()
    with pytest.raises(StoreError, match="after close"):
        store.claims.take("one", "a")
