"""What an operator found in the cloud is recorded about the attempt that was lost, and about no other."""

import pytest

from countersign.adapters.store.reconciled import Found, found_after, tell_found
from countersign.core.errors import FailedPrecondition
from countersign.core.run import RunState
from tests.requirements import requirement
from tests.service import ANA, Service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched

pytestmark = pytest.mark.anyio
install()


@requirement("reconcile:operator-tells")
async def test_of_two_answers_about_one_address_the_later_counts(it: Service) -> None:
    assert isinstance(it.engine, ToyEngine)
    it.engine.want(("a", "create"))
    it.engine.hold_applies = True
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    with pytest.raises(FailedPrecondition):
        await tell_found(it.store, org=it.org, run_id=run.id, found=Found(exists={"a": "1"}, missing=frozenset()), by=ANA)
    await it.approve(waiting)
    folder = await launched(it)
    (folder / "lost").touch()
    lost = await it.reaches(run.id, RunState.NEEDS_OPERATOR)

    await tell_found(it.store, org=it.org, run_id=run.id, found=Found(exists={"a": "1"}, missing=frozenset({"b"})), by=ANA)
    await tell_found(it.store, org=it.org, run_id=run.id, found=Found(exists={"b": "2"}, missing=frozenset({"a"})), by=ANA)

    async with it.store.read() as conn:
        assert await found_after(conn, lost, folder.name) == Found(exists={"b": "2"}, missing=frozenset({"a"}))
        assert await found_after(conn, lost, "att_another") == Found(exists={}, missing=frozenset())
