"""Carries out the study's runs, several at a time, each when those that it needs are done.

Enters: runs, and the store of records. Leaves: a record of every run; one that has a record is not run again, unless
another needs its artifact and the scratch folder has lost it; then its record stays. May be stopped at any time.
"""

import fcntl
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.study.runs import Run, artifact, label, name_of
from benchmarks.study.store import Store
from schemas.errors import ConfigError

log = logging.getLogger(__name__)


def with_needs(asked: Iterable[Run]) -> list[Run]:
    """The runs that are asked for and those that they need, each once, needed ones first."""
    found: dict[str, Run] = {}

    def add(run: Run) -> None:
        for needed in run.needs:
            add(needed)
        found.setdefault(name_of(run), run)

    for run in asked:
        add(run)
    return list(found.values())


def missing(runs: Sequence[Run], store: Store, scratch: Path) -> list[Run]:
    """The runs that are to be carried out, in the same order.

    These are the ones without a record, the ones that one of them needs and whose artifact is gone, and the ones that
    were made of another run's artifact as the records do not know it.
    """
    wanted: set[str] = set()

    def want(run: Run) -> None:
        wanted.add(name_of(run))
        for needed in run.needs:
            if not artifact(scratch, needed).exists():
                want(needed)

    for run in runs:
        if run not in store or any(needed not in store for needed in run.needs) or _outdated(run, store):
            want(run)
    return [run for run in runs if name_of(run) in wanted]


def _outdated(run: Run, store: Store) -> bool:
    made_of = store[run]["parents"]
    return any(made_of[name_of(needed)] not in store.parameters_of(needed) for needed in run.needs)


def keep(run: Run, record: dict[str, Any], store: Store) -> None:
    """Stores what a run came to; if it was repeated for its artifact alone, its record stays.

    A repeated run need not give the same parameters on another machine. Were its record replaced, everything that it
    was compared with would have to be run again.
    """
    if run in store and not _outdated(run, store):
        store.add_repeat(run, record)
    else:
        store.add(run, record)


def carry_out(todo: Sequence[Run], store: Store, data: Path | None, scratch: Path, workers: int) -> None:
    """Runs all of them; the first that fails stops the others.

    Args:
      todo: runs, needed ones first.
      store: takes a record as soon as its run is done.
      data: the folder of Flickr8k's tars.
      scratch: for artifacts, and XLA's compiled programs.
      workers: runs at a time, on one core each; 0 is one for every core, or one where there is an accelerator.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another study is at work in {scratch}: wait, or name another --scratch") from None
        _carry_out(todo, store, data, scratch, workers)


def _carry_out(todo: Sequence[Run], store: Store, data: Path | None, scratch: Path, workers: int) -> None:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(scratch.absolute() / "xla"))
    workers = workers or _workers()
    if workers > 1:
        one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one_thread}".strip()
    begin, done, waiting = time.monotonic(), 0, list(todo)
    unfinished = {name_of(run) for run in todo}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        under_way: dict[Future[dict[str, Any]], Run] = {}
        while waiting or under_way:
            for run in list(waiting):
                if len(under_way) == workers:
                    break
                if not any(name_of(needed) in unfinished for needed in run.needs):
                    waiting.remove(run)
                    under_way[pool.submit(_execute, run, data, scratch)] = run
            finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                run = under_way.pop(future)
                record = future.result()
                keep(run, record, store)
                unfinished.discard(name_of(run))
                done += 1
                left = (time.monotonic() - begin) / done * (len(todo) - done) / 60
                log.info(
                    "[%d/%d] %s: %.0f s; about %.0f min left", done, len(todo), label(run), record["seconds"], left
                )


def _end_with_parent() -> None:
    """Sees to it that a worker does not go on when the study was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _execute(run: Run, data: Path | None, scratch: Path) -> dict[str, Any]:
    from benchmarks.study import execute

    return execute.execute(run, data, scratch)


def _workers() -> int:
    """Counts cores where they are all there is; asks in a process of its own, which then holds no accelerator."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return 1 if pool.submit(_has_accelerator).result() else os.cpu_count() or 1


def _has_accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu"
