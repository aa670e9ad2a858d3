"""How workers come to train the same thing: worker 0 plans, the others learn of it.

A worker other than the first needs the text and the addresses; the network,
the choices of training and the weights come from worker 0. What it was told on
its own command line must not contradict that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from charlstm import __version__
from charlstm.cluster import Cluster
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.corpus import Corpus, find_sources, load_corpus
from charlstm.errors import CharlstmError, CorpusError, InputError, printable
from charlstm.planning import TrainingPlan, prepare_text
from charlstm.reading import CorpusOptions

# Each worker has its own.
_OWN_OPTIONS = frozenset({"threads"})


class Exchange(Protocol):
    """What `distribution.Group` can do, as far as it is needed here."""

    def share(self, value: Any) -> Any:
        """Give all workers what worker 0 has."""

    def gather(self, value: Any) -> list[Any]:
        """Give all workers what each of them has."""

    def leave(self) -> None:
        """Stay until all workers have what they gathered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker trains.

    Attributes:
        corpus: The text.
        network: The network's shape.
        config: How it is trained.
        started: When the command began, by worker 0's clock.
    """

    corpus: Corpus
    network: NetworkConfig
    config: TrainingConfig
    started: float


def check_divisible(plan: TrainingPlan, cluster: Cluster) -> None:
    """Check that several workers can share a run.

    Args:
        plan: What will be done.
        cluster: The workers.

    Raises:
        InputError: If they cannot.
    """
    config, n_workers = plan.config, cluster.n_workers
    if config.recipe != "default":
        raise InputError(
            f"recipe {config.recipe} trains in one process: Keras draws its dropout for whole "
            "batches",
            hint="use recipe default, or no workers",
        )
    if config.batch_size < n_workers:
        raise InputError(
            f"{n_workers} workers cannot share a batch of {config.batch_size} rows",
            hint=f"give --batch-size {n_workers} or more, or fewer workers",
        )


def lead(
    exchange: Exchange,
    cluster: Cluster,
    plan: TrainingPlan,
    *,
    typed: Mapping[str, Any],
    started: float,
) -> Assignment:
    """Tell the other workers what will be done, as worker 0.

    Args:
        exchange: The group of all workers.
        cluster: Their addresses.
        plan: What will be done.
        typed: Options that were given.
        started: When the command began.

    Returns:
        Worker 0's own part, which is the plan.

    Raises:
        InputError: If another worker cannot take part; all of them raise it.
    """
    corpus = plan.corpus
    exchange.share(
        {
            "version": __version__,
            "workers": list(cluster.workers),
            "typed": {k: v for k, v in typed.items() if k not in _OWN_OPTIONS},
            "network": dataclasses.asdict(plan.network),
            "config": dataclasses.asdict(plan.config),
            "started": started,
            "text": {
                "name": corpus.name,
                "sha256": corpus.sha256,
                "path": str(corpus.path.resolve()),
                "options": corpus.options.to_json(),
            },
        }
    )
    _agree(exchange, cluster, None)
    return Assignment(corpus=corpus, network=plan.network, config=plan.config, started=started)


def follow(
    exchange: Exchange, cluster: Cluster, *, corpus: str | None, typed: Mapping[str, Any]
) -> Assignment:
    """Learn what will be done, as a worker other than the first.

    Args:
        exchange: The group of all workers.
        cluster: Their addresses.
        corpus: The text as typed on this worker, or None.
        typed: Options that were given on this worker.

    Returns:
        This worker's part.

    Raises:
        InputError: If a worker cannot take part; all of them raise it.
    """
    told = exchange.share(None)
    found: Corpus | None = None
    problem: CharlstmError | None = None
    try:
        _compare(told, cluster, typed)
        network, config = NetworkConfig(**told["network"]), TrainingConfig(**told["config"])
        found = _open_text(corpus, told["text"], network=network, config=config)
    except CharlstmError as error:
        problem = error
    _agree(exchange, cluster, problem)
    assert found is not None
    return Assignment(corpus=found, network=network, config=config, started=told["started"])


def _agree(exchange: Exchange, cluster: Cluster, problem: CharlstmError | None) -> None:
    """Let all workers stop with the first one's problem, if any has one."""
    found = exchange.gather(None if problem is None else [problem.message, problem.hint])
    for index, said in enumerate(found):
        if said is not None:
            exchange.leave()  # whoever ended sooner would be taken for lost
            raise InputError(f"{cluster.name(index)}: {said[0]}", hint=said[1])


def _compare(told: Mapping[str, Any], cluster: Cluster, typed: Mapping[str, Any]) -> None:
    """Check that this worker's command line and worker 0's are of one run."""
    if told["version"] != __version__:
        raise InputError(
            f"this is charlstm {__version__}, worker 0 has {printable(str(told['version']))}",
            hint="install the same version everywhere",
        )
    if told["workers"] != list(cluster.workers):
        raise InputError(
            "the list of workers is another than worker 0's: "
            + printable(",".join(map(str, told["workers"]))),
            hint="give all workers the same list, in the same order",
        )
    for name, value in typed.items():
        if name not in _OWN_OPTIONS and told["typed"].get(name) != value:
            other = told["typed"].get(name)
            has = "it was not given" if other is None else f"it is {printable(str(other))}"
            raise InputError(
                f"--{name.replace('_', '-')} is {value} here; on worker 0 {has}",
                hint="give all workers the same options; only --threads may differ",
            )


def _open_text(
    corpus: str | None,
    about: Mapping[str, Any],
    *,
    network: NetworkConfig,
    config: TrainingConfig,
) -> Corpus:
    """Open worker 0's own folder where all share a file system, or this worker's text."""
    with contextlib.suppress(CorpusError, OSError):
        shared = load_corpus(Path(about["path"]))
        if shared.sha256 == about["sha256"]:
            return shared
    if corpus in (None, "-"):
        raise InputError(
            f"the text {printable(about['name'])} is not on this machine",
            hint="give each worker the text, or a file system that all share",
        )
    own = prepare_text(
        find_sources([str(corpus)]),
        CorpusOptions(**about["options"]),
        seq_length=network.seq_length,
        val_fraction=config.val_fraction,
        progress=None,
    )
    if own.sha256 != about["sha256"]:
        raise InputError(
            f"{printable(str(corpus))} is not worker 0's text (sha256 {own.sha256[:12]}…, "
            f"not {about['sha256'][:12]}…)",
            hint="give all workers the same file",
        )
    return own
