"""Which workers a run has, as typed or as a cluster says, and who can reach them."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import run

from charlstm import cluster as cluster_module
from charlstm.cluster import (
    Cluster,
    check_port,
    choose_cluster,
    local_workers,
    lost,
    share_of,
    unreachable,
    wait_for_workers,
    warnings_of,
)
from charlstm.errors import InputError, OutputError, TrainingError

HOSTS = ("host1:2222", "host2:2223", "host3:2224")


def choose(workers=None, index=None, local=None, tf_config=None):
    environment = {} if tf_config is None else {"TF_CONFIG": tf_config}
    return choose_cluster(
        workers=workers, worker_index=index, local_workers=local, environment=environment
    )


def tf_config(cluster, task) -> str:
    return json.dumps({"cluster": cluster, "task": task})


# --- what was asked for -------------------------------------------------------


def test_options_name_the_workers_and_this_one():
    cluster = choose("host1:2222, host2:2223,host3:2224", 2)
    assert cluster == Cluster(workers=HOSTS, index=2)
    assert (cluster.n_workers, cluster.is_writer, cluster.is_local) == (3, False, False)
    assert cluster.name() == "worker 2 of 3 (host3:2224)"
    assert cluster.name(0) == "worker 0 of 3 (host1:2222)"


@pytest.mark.parametrize("address", ["a:1", "a-b.c_d.:65535", "10.0.0.3:22", "[fd00::3]:2222"])
def test_addresses_of_every_kind(address):
    assert choose(f"{address},other:9", 0).workers[0] == address


@pytest.mark.parametrize(
    ("cluster", "task", "expected"),
    [
        ({"worker": list(HOSTS)}, {"type": "worker", "index": 1}, (HOSTS, 1)),
        ({"worker": list(HOSTS)}, {"type": "worker", "index": "2"}, (HOSTS, 2)),
        # The chief is the first worker, wherever it stands.
        (
            {"worker": list(HOSTS[1:]), "chief": [HOSTS[0]]},
            {"type": "worker", "index": 1},
            (HOSTS, 2),
        ),
        (
            {"chief": [HOSTS[0]], "worker": list(HOSTS[1:])},
            {"type": "chief", "index": 0},
            (HOSTS, 0),
        ),
        (
            {"worker": {"1": HOSTS[1], "0": HOSTS[0]}},
            {"type": "worker", "index": 1},
            (HOSTS[:2], 1),
        ),
    ],
)
def test_a_cluster_says_it_in_tf_config(cluster, task, expected):
    found = choose(tf_config=tf_config(cluster, task))
    assert (found.workers, found.index) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"local": 1},
        {"workers": "host1:2222"},
        {"workers": "host1:2222", "index": 0},
        {"tf_config": " "},
        {"tf_config": "{}"},
        {"tf_config": tf_config({}, {})},
        {"tf_config": tf_config({"worker": []}, None)},
        {"tf_config": tf_config({"worker": ["host1:2222"]}, {"type": "worker", "index": 0})},
    ],
)
def test_one_worker_trains_alone(arguments):
    assert choose(**arguments) is None


def test_what_is_typed_wins_over_tf_config():
    other = tf_config({"worker": ["x:1", "y:2"]}, {"type": "worker", "index": 1})
    assert choose(",".join(HOSTS), 0, tf_config=other) == Cluster(workers=HOSTS, index=0)
    assert choose(local=1, tf_config=other) is None


def test_local_workers_get_ports_of_their_own_on_this_machine():
    cluster = choose(local=4)
    hosts, ports = zip(*(worker.split(":") for worker in cluster.workers), strict=True)
    assert set(hosts) == {"127.0.0.1"}
    assert len(set(ports)) == 4
    assert (cluster.index, cluster.is_local) == (0, True)
    for index in range(4):  # what the others are told
        told = choose(tf_config=cluster.as_tf_config(index))
        assert (told.workers, told.index) == (cluster.workers, index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": "a:1,b:2"}, "which of the 2 workers is this one?"),
        ({"workers": "a:1,b:2", "index": 2}, "--worker-index 2: there are 2 workers"),
        ({"index": 0}, "--worker-index says which of the --workers"),
        ({"local": 2, "workers": "a:1,b:2"}, "--local-workers starts its own"),
        ({"local": 2, "index": 0}, "--local-workers starts its own"),
        ({"workers": " , "}, "--workers names no worker"),
        ({"workers": "a:1,a:1", "index": 0}, "has a:1 twice"),
        ({"workers": "a:1,A:1", "index": 0}, "twice"),
        ({"workers": "a:1,b", "index": 0}, "'b' is not host:port"),
        ({"workers": "a:1,b:", "index": 0}, "'b:' is not"),
        ({"workers": "a:1,:2", "index": 0}, "':2' is not"),
        ({"workers": "a:1,b:0", "index": 0}, "'b:0' is not"),
        ({"workers": "a:1,b:65536", "index": 0}, "'b:65536' is not"),
        ({"workers": "a:1,b:-2", "index": 0}, "'b:-2' is not"),
        ({"workers": "a:1,b:٣", "index": 0}, "is not host:port"),
        ({"workers": "a:1,fd00::3:22", "index": 0}, "'fd00::3:22' is not"),
        ({"workers": "a:1,grpc://b:2", "index": 0}, "is not host:port"),
        ({"workers": "a:1,b\x1b[2J:2", "index": 0}, r"'b\x1b[2J:2' is not"),
        ({"workers": ",".join(f"h:{n}" for n in range(1, 1_026)), "index": 0}, "at most 1,024"),
        ({"tf_config": "{"}, "TF_CONFIG is not JSON"),
        ({"tf_config": tf_config({"ps": ["a:1"]}, {})}, "tasks of type 'ps'"),
        ({"tf_config": tf_config({"worker": 3}, {})}, "worker is not a list"),
        ({"tf_config": tf_config({"worker": ["a:1", 7]}, {})}, "7 is not host:port"),
        ({"tf_config": tf_config({"worker": {"1": "a:1"}}, {})}, "None is not host:port"),
        *(
            ({"tf_config": tf_config({"worker": ["a:1", "b:2"]}, task)}, "which of its 2 workers")
            for task in (
                None,
                [],
                {},
                {"type": "worker"},
                {"type": "chief", "index": 0},
                {"type": "worker", "index": 2},
                {"type": "worker", "index": -1},
                {"type": "worker", "index": "x"},
                {"type": ["worker"], "index": 0},
            )
        ),
    ],
)
def test_what_is_wrong_is_said(arguments, message):
    with pytest.raises(InputError) as caught:
        choose(**arguments)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert "\n" not in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--workers", "a:1,b:2"], "which of the 2 workers", "add --worker-index"),
        (["--worker-index", "1"], "--worker-index says which", "--workers host1:2222"),
        (["--workers", "a:1,b", "--worker-index", "1"], "'b' is not host:port", "for instance"),
        (["--local-workers", "5", "--batch-size", "4"], "5 workers cannot share a batch of 4", "5"),
        (
            ["--local-workers", "2", "--recipe", "article"],
            "recipe article trains in one",
            "default",
        ),
        (["--local-workers", "0"], "0 is not in the range", "--help"),
    ],
)
def test_the_command_refuses_in_two_lines(workplace: Path, options, message, hint):
    """Before TensorFlow is imported, and with nothing left of the model."""
    result = run("train", "king.txt", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    *_, first, second = result.stderr.splitlines()
    assert first.startswith("Error: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not list((workplace / "checkpoints").glob("*/step-*"))


def test_another_worker_names_itself(workplace: Path):
    result = run("train", "nowhere.txt", "--workers", "a:1,b:2", "--worker-index", "1")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: worker 1 of 2 (b:2): ")


# --- how the network stands ---------------------------------------------------


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_own_address", lambda: "192.168.7.7")


def warn(*workers: str, is_local: bool = False) -> str:
    return "\n".join(warnings_of(Cluster(workers=workers, index=0, is_local=is_local)))


@pytest.mark.usefixtures("at_home")
def test_public_addresses_are_warned_of():
    text = warn("10.0.0.1:1", "8.8.8.8:2", "[2606:4700::1]:3")
    assert text.startswith("warning: 8.8.8.8:2, [2606:4700::1]:3 can be reached")
    assert "without a password" in text


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    "host", ["10.1.2.3", "172.20.0.1", "192.168.0.9", "127.0.0.1", "[fd00::1]"]
)
def test_private_ones_are_only_told_of_the_firewall(host):
    text = warn(f"{host}:1", f"{host}:2")
    assert "warning" not in text
    assert "firewall" in text


def test_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch, at_home: None):
    def look_up(host: str, port: None):
        address = {"out.example": "8.8.4.4", "in.example": "10.0.0.4"}[host]
        return [(socket.AF_INET, 0, 0, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert "out.example:1 can be reached" in warn("out.example:1", "in.example:2")
    assert "warning" not in warn("in.example:1", "in.example:2")


def test_a_name_that_nobody_knows_is_no_error(monkeypatch: pytest.MonkeyPatch, at_home: None):
    def look_up(host: str, port: None):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert "warning" not in warn("gone.example:1", "in.example:2")


def test_local_workers_are_warned_of_on_a_public_machine_only(monkeypatch: pytest.MonkeyPatch):
    """And only where the port cannot be held to the address that is named."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(cluster_module, "_own_address", lambda: "8.8.8.8")
        elsewhere.setattr(cluster_module, "own_address", ipaddress.ip_address)
        assert warn("127.0.0.1:1", "127.0.0.1:2", is_local=True) == ""
        text = warn("10.0.0.1:1", "10.0.0.2:2")
        assert text.startswith("the workers' ports have no password: let a firewall")
        text = warn("8.8.8.8:1", "10.0.0.2:2")
        assert "reached from the internet" in text
        assert "every network" not in text
    monkeypatch.setattr(cluster_module, "own_address", lambda host: None)
    for own, expected in (("192.168.7.7", False), (None, False), ("8.8.8.8", True)):
        monkeypatch.setattr(cluster_module, "_own_address", lambda own=own: own)
        text = warn("127.0.0.1:1", "127.0.0.1:2", is_local=True)
        assert ("public address 8.8.8.8" in text) is expected
        assert bool(text) is expected


def test_a_port_in_use_is_told():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        cluster = Cluster(workers=("a:1", f"127.0.0.1:{port}"), index=1)
        with pytest.raises(OutputError, match=rf"worker 1 of 2 .* cannot listen on port {port}"):
            check_port(cluster)
        assert unreachable(Cluster(workers=("a:1", f"127.0.0.1:{port}"), index=0)) == []
    check_port(cluster)
    assert unreachable(Cluster(workers=("a:1", f"127.0.0.1:{port}"), index=0)) == [1]


@pytest.mark.parametrize(("seconds", "code"), [(0.3, -9), (60.0, 0)])
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_worker_that_hangs_is_ended_and_says_so(seconds, code):
    """As in C, where no signal is heeded; one that does not hang goes on."""
    script = (
        "import signal, time; from charlstm.cluster import Cluster, bounded\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})\n"
        f"with bounded(Cluster(workers=('a:1', 'b:2'), index=1), seconds={seconds}):\n"
        f"    time.sleep({30 if code else 0.5})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=25
    )
    assert result.returncode == code
    told = "Error: worker 1 of 2 (b:2): the others answered, but did not connect in 0 seconds; "
    told += "one may have ended meanwhile\nhint: start all of them again\n"
    assert result.stderr == (told if code else "")


def test_the_lost_are_named():
    cluster = Cluster(workers=HOSTS, index=0)
    assert lost(cluster, [2], "").message.startswith(
        "worker 2 of 3 (host3:2224) does not answer any more; all stop"
    )
    two = lost(cluster, [1, 2], "")
    assert "worker 1 of 3 (host2:2223), worker 2 of 3 (host3:2224) do not answer" in two.message
    assert two.gone == (1, 2)
    assert "lost each other: reset by\\x07 peer" in lost(cluster, [], "reset by\x07 peer").message
    assert two.exit_code == 1


def test_workers_wait_for_each_other():
    """Whoever comes last finds all others, however long these have waited."""
    addresses = choose(local=3).workers
    all_are_there = threading.Barrier(3)

    def work(index: int) -> None:
        cluster = Cluster(workers=addresses, index=index)
        wait_for_workers(cluster, should_stop=lambda: False, note=pytest.fail)
        with cluster_module._answered(cluster):  # as TensorFlow does next
            all_are_there.wait(10)

    first = [threading.Thread(target=work, args=(index,)) for index in (2, 0)]
    for thread in first:
        thread.start()
    assert [thread.is_alive() for thread in first] == [True, True]
    work(1)
    for thread in first:
        thread.join(10)
    assert not all_are_there.broken


def test_who_is_missing_is_told_once_and_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch):
    cluster = choose(local=3)
    monkeypatch.setattr(cluster_module, "_LOOK_SECONDS", 0.0)
    told: list[str] = []
    ticks = itertools.count(step=5.0)
    with pytest.raises(TrainingError, match=r"waited 10 minutes for worker 1 of 3 .*, worker 2"):
        wait_for_workers(
            cluster, should_stop=lambda: False, note=told.append, read=lambda: next(ticks)
        )
    assert told == [f"waiting for {cluster.name(1)}, {cluster.name(2)}"]
    check_port(cluster)  # it is free again


def test_a_worker_that_waits_can_be_told_to_stop():
    answers = iter([False, False, True])
    with pytest.raises(KeyboardInterrupt):
        wait_for_workers(choose(local=2), should_stop=lambda: next(answers), note=pytest.fail)


# --- sharing the rows out -----------------------------------------------------


@pytest.mark.parametrize(("n", "n_shares"), [(12, 4), (13, 4), (7, 7), (5, 3), (2, 5)])
def test_shares_are_all_rows_once_in_order(n, n_shares):
    shares = [share_of(n, index, n_shares) for index in range(n_shares)]
    rows = [list(range(n))[share] for share in shares]
    assert list(itertools.chain(*rows)) == list(range(n))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


# --- workers on this machine --------------------------------------------------


def replace_command(monkeypatch: pytest.MonkeyPatch, script: str) -> list[subprocess.Popen]:
    """Let the workers be a script instead, and list them."""
    real, started = subprocess.Popen, []

    def popen(command, **options):
        started.append(real([sys.executable, "-c", script, *command[1:]], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return started


def test_workers_that_were_started_end_with_an_error(tmp_path, monkeypatch):
    started = replace_command(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(RuntimeError), local_workers(choose(local=3), tmp_path, threads=1) as check:
        check()
        assert [child.poll() for child in started] == [None, None]
        raise RuntimeError
    assert all(child.poll() is not None for child in started)


def test_workers_that_were_started_may_end_by_themselves(tmp_path, monkeypatch):
    script = "import sys, time; time.sleep(0.2); sys.exit(7)"
    started = replace_command(monkeypatch, script)
    with local_workers(choose(local=3), tmp_path, threads=1):
        pass
    assert [child.returncode for child in started] == [7, 7]


def test_a_worker_that_ended_too_soon_is_named(tmp_path, monkeypatch):
    started = replace_command(monkeypatch, "")
    cluster = choose(local=2)
    with local_workers(cluster, tmp_path, threads=1) as check:
        started[0].wait()
        with pytest.raises(cluster_module.LostWorkerError, match=r"worker 1 of 2 \(127.0.0.1"):
            check()


def test_a_worker_that_was_started_knows_the_text_and_its_threads(tmp_path, monkeypatch):
    """And no option of its parent's environment."""
    script = "import os, sys; open('told', 'w').write(repr((sys.argv, dict(os.environ))))"
    replace_command(monkeypatch, script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLSTM_TRAIN_EPOCHS", "3")
    with local_workers(choose(local=2), tmp_path / "prepared", threads=3):
        pass
    arguments, environment = eval((tmp_path / "told").read_text())
    assert arguments[-5:-2] == [str(tmp_path / "prepared"), "--threads", "3"]
    assert json.loads(environment["TF_CONFIG"])["task"] == {"type": "worker", "index": 1}
    assert "CHARLSTM_TRAIN_EPOCHS" not in environment
