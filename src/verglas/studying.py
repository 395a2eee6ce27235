"""Carry out the runs of a study: here, in processes of their own, or as jobs of a cluster.

All ways leave the same folders and learn from these what has become of a run, so any of them may be killed.
"""

import json
import signal
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from verglas.config import AlgorithmSettings
from verglas.doctor.split import closest
from verglas.errors import InputError, check_choice, check_range
from verglas.io._base import write_text
from verglas.materials import ALONE_PARTIAL
from verglas.records import Failed, Note, Progress, Record, Studied, Summary
from verglas.study import Division, Study, algorithm_of, planned, write_plan
from verglas.study_report import leakage, leakage_path, write_results
from verglas.study_run import Task, Verbs, ended, failure, perform, placed, write_failure
from verglas.types import Collection

COMPARED = 200
"""How many micrographs of a data set are compared by their pictures, to find one that teaches and tests."""

TRIED = 10
"""Steps of a trial that tells how long a training will take."""

DEARER, AGAIN = 1.7, 1.6
"""How much longer a run takes that learns from unlabelled micrographs along the way, and what each student adds that
begins anew: ``benchmarks/results/semi.jsonl``."""

SLURM = {
    "partition": "slurm_partition", "account": "slurm_account", "minutes": "timeout_min", "cpus": "cpus_per_task",
    "gpus": "gpus_per_node", "memory_gb": "mem_gb", "at_once": "slurm_array_parallelism",
}  # fmt: skip
"""Options of a cluster's jobs, and what submitit calls them."""


Way = Callable[[Sequence[Task], threading.Event], Iterator[Task]]
"""A way to carry out runs that do not depend on each other: yields each that has ended, well or not."""


def chosen_way(folder: Path, executor: str, jobs: int, options: Mapping[str, str]) -> tuple[Way, int]:
    """Return the way to carry out runs, and how many threads that leaves each; 0 for as many as it likes."""
    check_choice("--executor", "executor", executor, ("local", "slurm"))
    if executor == "slurm":
        return on_cluster(folder, options), int(options.get("cpus", 0))
    check_range("--jobs", 1, 10_000, jobs=jobs)
    return (here, 0) if jobs == 1 else (in_processes(jobs), max(1, torch.get_num_threads() // jobs))


def conduct(
    study: Study,
    collections: Mapping[str, Collection],
    folder: Path,
    verbs: Verbs,
    way: Way,
    *,
    threads: int = 0,
    gaps: bool = False,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Write the plan, carry out what is left of it, and collect the results."""
    stop = stop or threading.Event()
    tasks, divisions = tasks_of(study, collections, folder, verbs, threads)
    write_plan(folder, study, [task.cell for task in tasks], divisions, collections)
    yield from _compared(study, collections, folder, divisions)
    yield from carried_out(tasks, way, stop)
    if stop.is_set():
        return
    missing = [task for task in tasks if not ended(folder, task.cell)]
    if missing and not gaps:
        sentence = f"{len(missing)} of {len(tasks)} runs have no result: repeat the command, or show gaps"
        yield Note(sentence, warning=True)
        yield Summary({"study": str(folder), "runs": len(tasks) - len(missing), "missing": len(missing)})
    else:
        yield Summary(write_results(folder, gaps=gaps))


def tasks_of(
    study: Study, collections: Mapping[str, Collection], folder: Path, verbs: Verbs, threads: int = 0
) -> tuple[list[Task], dict[str, Division]]:
    """Return the runs of a study, and the roles of its micrographs."""
    cells, divisions = planned(study, collections)
    return [Task(folder, cell, threads, verbs) for cell in cells], divisions


def _compared(
    study: Study, collections: Mapping[str, Collection], folder: Path, divisions: Mapping[str, Division]
) -> Iterator[Record]:
    """Compare the pictures of the test with the others, once for each data set; keep and tell what was found."""
    for data, collection in collections.items():
        path, tested = leakage_path(folder, data), {*divisions[f"{data}_{study.seeds[0]}"].test}
        if not path.is_file():
            test, others = (
                [m for m in collection.micrographs if (m.name in tested) is wanted] for wanted in (True, False)
            )
            reading = study.config(data, next(iter(study.rows))).data.reading()
            pair, alike, read = closest(test, others, reading, COMPARED)
            found = {"highest_correlation": alike, "most_alike": pair, "compared": read, "of": len(test) + len(others)}
            write_text(path, json.dumps(found, indent=1) + "\n")
        if (sentence := leakage(folder, data)) is not None:
            yield Note(sentence, warning=True)


def carried_out(tasks: Sequence[Task], way: Way, stop: threading.Event) -> Iterator[Record]:
    """Carry out the runs that have no result yet, and yield how each ended.

    One that starts from another comes after it. ``stop`` ends the runs in work so that they can go on.
    """
    todo = {task.cell.key: task for task in tasks if not ended(task.folder, task.cell)}
    keys = {task.cell.key for task in tasks}
    done, total = len(keys) - len(todo), len(keys)
    yield Note(f"{total} runs, of which {done} have been done")
    for wave in _waves(todo):
        for task in way(wave, stop):
            if ended(task.folder, task.cell):
                done += 1
                result = json.loads((task.home / "result.json").read_text(encoding="utf-8"))
                figures, seconds = result["figures"], result["seconds"]
                told = str(task.home), str(task.cell), done, total, seconds
                yield Studied(*told, figures["ap@0.5"], figures["f1@0.5"])
            elif (reason := failure(task.home)) is not None:
                yield Failed(str(task.cell), reason)
            elif not stop.is_set():
                yield Failed(str(task.cell), "another process is at this run")
        if stop.is_set():
            yield Note("stopped: repeat the command to go on", warning=True)
            return


def _waves(todo: Mapping[str, Task]) -> Iterator[list[Task]]:
    """Yield runs that do not depend on each other, those first from which others start."""
    depth: dict[str, int] = {}
    for key, task in todo.items():
        depth[key] = depth.get(task.cell.start or "", -1) + 1
    for level in range(max(depth.values(), default=-1) + 1):
        yield [task for key, task in todo.items() if depth[key] == level]


def here(tasks: Sequence[Task], stop: threading.Event) -> Iterator[Task]:
    """Carry out one run after the other in this process."""
    for task in tasks:
        if stop.is_set():
            return
        perform(task, stop)
        yield task


def in_processes(jobs: int) -> Way:
    """Return the way to carry out ``jobs`` runs at once, each in a process of its own: one that dies takes no other."""

    def way(tasks: Sequence[Task], stop: threading.Event) -> Iterator[Task]:
        context, waiting, working = get_context("spawn"), deque(tasks), dict[BaseProcess, Task]()
        try:
            while working or (waiting and not stop.is_set()):
                while waiting and len(working) < jobs and not stop.is_set():
                    process: BaseProcess = context.Process(target=alone_in_process, args=(waiting[0],))
                    process.start()
                    working[process] = waiting.popleft()
                connection.wait([one.sentinel for one in working], timeout=0.5)
                if stop.is_set():
                    for other in working:
                        other.terminate()
                for gone in [one for one in working if not one.is_alive()]:
                    task = working.pop(gone)
                    if gone.exitcode and not stop.is_set() and failure(task.home) is None:
                        reason = f"its process ended with {gone.exitcode}; -9 is for want of memory, as a rule"
                        write_failure(task.home, reason)
                    yield task
        finally:
            for other in working:
                other.terminate()
            for other in working:
                other.join()

    return way


def alone_in_process(task: Task) -> None:
    """Perform a run in a process that has nothing else to do; SIGTERM, or the end of its parent, stops it cleanly."""
    stop, parent = threading.Event(), parent_process()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sends SIGTERM
        threading.Thread(target=_set_at_end, args=(parent, stop), daemon=True).start()
    perform(task, stop)


def _set_at_end(parent: BaseProcess, stop: threading.Event) -> None:
    parent.join()
    stop.set()


def on_cluster(folder: Path, options: Mapping[str, str], cluster: str = "slurm") -> Way:
    """Return the way to carry out runs as one array job, by submitit; stopping cancels what is left of it.

    ``options`` are those of ``SLURM``. ``cluster`` is a name that submitit knows.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "--executor", "executor", found="slurm, without submitit", expected="the package submitit",
            remedy="pip install 'verglas[slurm]'",
        ) from error  # fmt: skip
    if odd := options.keys() - SLURM.keys():
        raise InputError("--slurm", "option", found=min(odd), expected=f"one of {', '.join(SLURM)}")
    values = {SLURM[key]: int(value) if value.isdecimal() else value for key, value in options.items()}
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
        executor.update_parameters(name="verglas", **values)
    except (RuntimeError, NameError, ValueError) as error:
        raise InputError("--executor", "executor", found=cluster, expected="a cluster", remedy=str(error)) from error

    def way(tasks: Sequence[Task], stop: threading.Event) -> Iterator[Task]:
        working = list(zip(executor.map_array(alone_in_process, tasks), tasks, strict=True))
        while working:
            if stop.wait(0.5):
                for job, _ in working:
                    job.cancel(check=False)
                return
            for pair in [pair for pair in working if pair[0].done()]:
                working.remove(pair)
                error = pair[0].exception()
                if error is not None and failure(pair[1].home) is None:
                    write_failure(pair[1].home, f"its job: {error}")
                yield pair[1]

    return way


# --- what is to come


def foreseen(tasks: Sequence[Task], jobs: int) -> Iterator[Record]:
    """Yield each run with what has become of it, then how long the rest will take and how much disk.

    Time is the median of ended runs of the same row, else of all; where there are none, that of a few steps with
    labels alone.
    """
    todo = {task.cell.key: task for task in tasks if not ended(task.folder, task.cell)}
    for task in tasks:
        state = "to do" if task.cell.key in todo else "done"
        yield Note(f"{task.cell}: {'failed before, to do again' if failure(task.home) else state} ({task.cell.key})")
    cost, how = _experience(tasks) or (_trial(next(iter(todo.values()))) if todo else (_nothing, "none left"))
    seconds, size = (sum(each) for each in zip((0.0, 0.0), *map(cost, todo.values()), strict=True))
    yield Summary({
        "runs": len({task.cell.key for task in tasks}), "to_do": len(todo),
        "seconds_for_a_run": seconds / max(1, len(todo)), "hours": seconds / jobs / 3600, "disk_gb": size / 1e9,
        "estimated_from": how,
    })  # fmt: skip


Cost = Callable[[Task], tuple[float, float]]
"""What a run will take: seconds and bytes."""


def _nothing(task: Task) -> tuple[float, float]:
    return 0.0, 0.0


def _experience(tasks: Iterable[Task]) -> tuple[Cost, str] | None:
    """Return the medians of the runs that have ended."""
    homes = {task.home: task.cell.row for task in tasks if ended(task.folder, task.cell)}
    if not homes:
        return None
    spent: dict[str | None, list[tuple[float, float]]] = {}
    for home, row in homes.items():
        seconds = json.loads((home / "result.json").read_text(encoding="utf-8"))["seconds"]
        for kind in (row, None):
            spent.setdefault(kind, []).append((seconds, float(_size(home))))

    def cost(task: Task) -> tuple[float, float]:
        seconds, size = zip(*spent.get(task.cell.row, spent[None]), strict=True)
        return statistics.median(seconds), statistics.median(size)

    return cost, f"ended runs: {len(homes)}"


def _trial(task: Task) -> tuple[Cost, str]:
    """Train for a few steps on the labelled micrographs alone, and tell from that what whole runs take."""
    with tempfile.TemporaryDirectory() as scratch:
        cell, taught = task.cell, task.cell.labels.by_name()
        labelled = tuple(m for m in cell.micrographs if m.name in taught)
        tried = Task(Path(scratch), replace(cell, micrographs=labelled, start=None), task.threads, task.verbs)
        began, config = time.perf_counter(), placed(tried).with_train(steps=TRIED)
        if config.data.labels_are == "partial":
            config = replace(config, algorithm=AlgorithmSettings(ALONE_PARTIAL))
        times = [r.seconds for r in tried.verbs.train(config, tried.home / "run") if isinstance(r, Progress)]
        whole, each = time.perf_counter() - began, (times[-1] - times[0]) / (TRIED - 1)
        size = float(_size(tried.home))

    def cost(other: Task) -> tuple[float, float]:
        cell = other.cell
        train, partial = cell.config.train, cell.config.data.labels_are == "partial"
        more = partial or len(cell.micrographs) > len(cell.labels.picks)
        seconds = max(0.0, whole - TRIED * each) + each * train.steps * train.batch / config.train.batch
        made = algorithm_of(cell.config, partial=partial)
        dearer = 1 + AGAIN * made.rounds if made.teacher == "picks" else DEARER if made.strong_views else 1
        return seconds * (dearer if more else 1), size

    how = (
        f"{TRIED} steps with labels alone; {DEARER:g} to {1 + AGAIN:g} times that where unlabelled micrographs teach, "
        "picking left out"
    )
    return cost, how


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
