"""What workers tell each other before they train: worker 0's plan, and what speaks against it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from charlstm.cluster import Cluster
from charlstm.errors import InputError
from charlstm.meeting import follow, lead
from charlstm.planning import TrainingPlan, TrainingRequest, plan_training

WORKERS = ("host1:2222", "host2:2223", "host3:2224")


class Exchange:
    """Stands in for the group: what was shared, and what each of three workers gathers."""

    def __init__(self, told: Any = None, others: dict[int, Any] | None = None, own: int = 0):
        self.told = told
        self.others = others or {}
        self.own = own
        self.gathered: Any = None
        self.n_left = 0

    def share(self, value: Any) -> Any:
        if value is not None:
            self.told = json.loads(json.dumps(value))
        return self.told

    def gather(self, value: Any) -> list[Any]:
        self.gathered = value
        return [value if n == self.own else self.others.get(n) for n in range(3)]

    def leave(self) -> None:
        self.n_left += 1


def cluster(index: int) -> Cluster:
    return Cluster(workers=WORKERS, index=index)


@pytest.fixture
def plan(workplace: Path) -> TrainingPlan:
    typed = {"epochs": 2.0, "units": 6, "threads": 3}
    return plan_training(TrainingRequest(corpus="king.txt", typed=typed))


def told_by(plan: TrainingPlan, **changes: Any) -> dict[str, Any]:
    exchange = Exchange()
    part = lead(exchange, cluster(0), plan, typed={"epochs": 2.0, "threads": 3}, started=12.5)
    assert (part.corpus, part.network, part.config) == (plan.corpus, plan.network, plan.config)
    told: dict[str, Any] = exchange.told
    return told | changes


def at_other(plan: TrainingPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Go to a machine that shares no files with worker 0."""
    told = told_by(plan)
    told["text"]["path"] = str(tmp_path / "not" / "here")
    folder = tmp_path / "other"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return told


def test_the_others_learn_all_from_worker_0(plan):
    """From its own prepared folder, where they see it: nothing is written."""
    exchange = Exchange(told_by(plan), own=1)
    part = follow(exchange, cluster(1), corpus="king.txt", typed={"epochs": 2.0, "threads": 9})
    assert (part.network, part.config, part.started) == (plan.network, plan.config, 12.5)
    assert part.corpus.path.resolve() == plan.corpus.path.resolve()
    assert exchange.gathered is None


def test_where_no_files_are_shared_the_text_is_prepared_again(plan, tmp_path, monkeypatch):
    """As worker 0 prepared it, whatever this worker's defaults are."""
    text = Path("king.txt").read_bytes()
    told = at_other(plan, tmp_path, monkeypatch)
    Path("king.txt").write_bytes(text)
    part = follow(Exchange(told, own=2), cluster(2), corpus="king.txt", typed={})
    assert part.corpus.path.resolve() == Path("prepared/king").resolve()
    assert part.corpus.sha256 == plan.corpus.sha256
    again = follow(Exchange(told, own=2), cluster(2), corpus="prepared/king", typed={})
    assert again.corpus.sha256 == plan.corpus.sha256


def refusal(told: Any, *, corpus: str | None = "king.txt", **typed: Any) -> str:
    exchange = Exchange(told, own=1)
    with pytest.raises(InputError) as caught:
        follow(exchange, cluster(1), corpus=corpus, typed=typed)
    message, hint = exchange.gathered  # what makes the others stop too
    assert caught.value.message == f"worker 1 of 3 (host2:2223): {message}"
    assert caught.value.hint == hint
    assert exchange.n_left == 1  # not before the others have heard it
    return str(message)


def test_another_text_is_refused(plan, tmp_path, monkeypatch):
    told = at_other(plan, tmp_path, monkeypatch)
    Path("king.txt").write_text("The queen is dead. Long live the queen!\n" * 60)
    assert "king.txt is not worker 0's text (sha256 " in refusal(told)
    assert "is not worker 0's text" in refusal(told, corpus="prepared/king")
    assert "king" in refusal(told, corpus="kingg.txt")
    for corpus in (None, "-"):
        assert refusal(told, corpus=corpus) == "the text king is not on this machine"


def test_what_contradicts_worker_0_is_refused(plan):
    assert refusal(told_by(plan), epochs=3.0) == "--epochs is 3.0 here; on worker 0 it is 2.0"
    assert "--batch-size is 5 here; on worker 0 it was not given" in refusal(
        told_by(plan), batch_size=5
    )
    assert "worker 0 has 0.0.1" in refusal(told_by(plan, version="0.0.1"))
    other = told_by(plan, workers=["host2:2223", "host1:2222"])
    assert refusal(other).endswith("worker 0's: host2:2223,host1:2222")


def test_worker_0_stops_for_what_another_has_found(plan):
    exchange = Exchange(others={2: ["it has no text", "give it one"]})
    with pytest.raises(InputError) as caught:
        lead(exchange, cluster(0), plan, typed={}, started=0.0)
    assert caught.value.message == "worker 2 of 3 (host3:2224): it has no text"
    assert caught.value.hint == "give it one"
    assert exchange.n_left == 1


def test_the_configuration_survives_the_journey(plan):
    config = dataclasses.replace(plan.config, clip_norm=None, minutes=0.1, learning_rate=1 / 3)
    told = told_by(dataclasses.replace(plan, config=config))
    part = follow(Exchange(told, own=1), cluster(1), corpus=None, typed={})
    assert part.config == config
