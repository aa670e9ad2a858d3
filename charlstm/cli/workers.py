"""`charlstm train` on several devices or workers: what is done around the run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from charlstm.cli.main import INTERRUPTED
from charlstm.cli.output import note
from charlstm.errors import CharlstmError

if TYPE_CHECKING:
    from charlstm.cluster import Cluster
    from charlstm.config import Precision, TrainingConfig
    from charlstm.planning import TrainingPlan


def start_training(
    plan: TrainingPlan,
    cluster: Cluster | None,
    stack: contextlib.ExitStack,
    *,
    typed: Mapping[str, Any],
    device: str,
    precision: Precision | None,
    tell: Callable[[str], None],
    started: float,
    should_stop: Callable[[], bool],
    should_save: Callable[[], bool],
) -> dict[str, Any]:
    """Start TensorFlow, and with it the other workers of a run that this one leads.

    Args:
        plan: What will be done.
        cluster: The workers, this one the first; None to train in this process.
        stack: Ends the workers that were started here, and explains a lost one.
        typed: Options that were given.
        device: As typed to `--device`.
        precision: As typed to `--precision`; None to let the device decide.
        tell: Told what the run computes on, if that is worth a line.
        started: When the command began, by `time.monotonic`.
        should_stop: Asked after each step.
        should_save: Asked after each step.

    Returns:
        What `Run` takes beside the plan, `config` in place of the plan's.
    """
    from charlstm.backend import start_tensorflow

    threads, parts = plan.config.threads, plan.config.n_parts
    check: Callable[[], None] = lambda: None  # noqa: E731
    if cluster is not None:
        from charlstm.cluster import check_port, local_workers, warnings_of
        from charlstm.meeting import check_divisible

        check_divisible(plan, cluster)
        check_port(cluster)
        for line in warnings_of(cluster):
            note(line)
        if cluster.is_local:
            threads = max(1, threads // cluster.n_workers)
            started_here = local_workers(cluster, plan.corpus.path, threads=threads, device=device)
            check = stack.enter_context(started_here)
        parts = threads
    start_tensorflow(
        threads=threads,
        random_seed=plan.config.random_seed,
        parts=parts,
        device=device,
        starts_runtime=cluster is None,
    )
    from charlstm.distribution import devices_of_this_machine, join

    if cluster is None:
        config = _with_precision(plan, precision, device=device, tell=tell)
        group = devices_of_this_machine(config, threads=threads, should_stop=should_stop)
        return {
            "config": config,
            "started": started,
            "should_stop": should_stop,
            "should_save": should_save,
            "group": group,
        }
    from charlstm.meeting import lead

    group = join(
        cluster,
        threads=threads,
        should_stop=should_stop,
        should_save=should_save,
        note=note,
        check=check,
    )
    stack.enter_context(group.watched())
    config = _with_precision(plan, precision, device=device, tell=tell)
    plan = dataclasses.replace(plan, config=config)
    lead(group, cluster, plan, typed=typed, started=started)
    return {
        "config": config,
        "started": started,
        "should_stop": group.should_stop,
        "should_save": group.should_save,
        "clock": group.clock,
        "group": group,
    }


def _with_precision(
    plan: TrainingPlan, wanted: Precision | None, *, device: str, tell: Callable[[str], None]
) -> TrainingConfig:
    """Choose the precision, once it is known what the run computes on, and say both."""
    from charlstm.devices import choose_precision, find_device, mixed_works, unused_gpu

    found = find_device()
    precision = choose_precision(wanted, device=found, recipe=plan.config.recipe)
    if precision == "mixed" and not mixed_works(plan.network):
        tell("mixed precision does not come out right on this GPU: training in single precision")
        precision = "float32"
    if found.kind == "gpu":
        tell(f"training on {found.describe()}, precision {precision}")
    elif device == "auto" and (line := unused_gpu()) is not None:
        tell(line)
    return dataclasses.replace(plan.config, precision=precision)


def follow_training(
    cluster: Cluster,
    corpus: str | None,
    *,
    typed: Mapping[str, Any],
    device: str,
    should_stop: Callable[[], bool],
) -> int:
    """Train as a worker other than the first, which says nothing but errors.

    Args:
        cluster: The workers.
        corpus: The text as typed, or None.
        typed: Options that were given.
        device: As typed to `--device`.
        should_stop: Asked after each step.

    Returns:
        The exit code.

    Raises:
        CharlstmError: With this worker's name in front.
    """
    try:
        return _follow(cluster, corpus, typed, device, should_stop)
    except CharlstmError as error:
        if not error.message.startswith(cluster.name()):
            error.message = f"{cluster.name()}: {error.message}"
        raise


def _follow(
    cluster: Cluster,
    corpus: str | None,
    typed: Mapping[str, Any],
    device: str,
    should_stop: Callable[[], bool],
) -> int:
    from charlstm.backend import available_cores, start_tensorflow
    from charlstm.cluster import LOCAL_WORKER, LostWorkerError, check_port, end_with_parent
    from charlstm.corpus import find_sources

    end_with_parent()
    if corpus not in (None, "-"):
        find_sources([str(corpus)])  # what is wrong with it is said at once
    check_port(cluster)
    threads = typed.get("threads") or available_cores()
    start_tensorflow(
        threads=threads, random_seed=0, parts=threads, device=device, starts_runtime=False
    )
    from charlstm.distribution import join
    from charlstm.meeting import follow
    from charlstm.training import Run

    try:
        group = join(cluster, threads=threads, should_stop=should_stop, note=lambda _: None)
        with group.watched():
            part = follow(group, cluster, corpus=corpus, typed=typed)
            result = Run(
                part.corpus,
                part.network,
                part.config,
                model=part.corpus.path,  # not looked at
                started=part.started,
                clock=group.clock,
                should_stop=group.should_stop,
                should_save=group.should_save,
                group=group,
            ).run()
    except LostWorkerError as error:
        if LOCAL_WORKER in os.environ and 0 not in error.gone:
            time.sleep(1)
            raise SystemExit(1) from error  # worker 0 says it, on the same terminal
        raise
    return INTERRUPTED if result.stopped == "interrupted" else 0
