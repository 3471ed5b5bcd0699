"""Many who ask at once are served by few runs, and never by one that began before they asked."""

from __future__ import annotations

import asyncio

from fleet.enrol.shared import Shared


async def test_who_asks_during_a_run_shares_the_next() -> None:
    started, go_on = asyncio.Queue[int](), asyncio.Semaphore(0)
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1
        started.put_nowait(runs)
        await go_on.acquire()

    shared = Shared(job)
    first = asyncio.create_task(shared.run())
    await started.get()
    late = [asyncio.create_task(shared.run()) for _ in range(50)]
    await asyncio.sleep(0)
    go_on.release()
    await first
    assert not any(task.done() for task in late)
    go_on.release()
    await asyncio.gather(*late)
    assert runs == 2


async def test_a_failed_run_is_tried_again_for_those_who_wait() -> None:
    runs = 0

    async def job() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        if runs == 1:
            raise OSError("disk full")

    shared = Shared(job)
    ends = await asyncio.gather(*(shared.run() for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [OSError, type(None), type(None)]
    assert runs == 2
