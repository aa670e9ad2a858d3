"""Which processes train a model together, and which of them this one is.

Plain: an address list is read, checked and turned into what TensorFlow wants,
before TensorFlow is imported; local workers are started and ended here. What
the workers do together is in `distribution`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from charlstm.binding import Address, hold, own_address
from charlstm.errors import InputError, OutputError, TrainingError, printable

MAX_WORKERS = 1_024
# Set for the processes that `--local-workers` starts; they end with their parent.
LOCAL_WORKER = "CHARLSTM_LOCAL_WORKER"
_LOOPBACK = "127.0.0.1"
_EXAMPLE = "--workers host1:2222,host2:2222 --worker-index 0"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
# How long a worker waits for the others to come; they may be started by hand.
JOIN_SECONDS = 600.0
_SECONDS_TO_TELL, _LOOK_SECONDS = 15.0, 0.2
CONNECT_SECONDS = 60.0
_WATCH = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
watched, seconds, text = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
end = time.monotonic() + seconds
while os.getppid() == watched:
    if time.monotonic() > end:
        sys.stderr.write(text)
        sys.stderr.flush()
        os.kill(watched, getattr(signal, "SIGKILL", signal.SIGTERM))
        break
    time.sleep(0.1)
"""
# What a worker has to end by itself after the first one is done.
_LAST_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers of one run.

    Attributes:
        workers: Their addresses, `host:port`, the writing one first.
        index: Which of them this process is.
        is_local: Whether this program started the others on this machine.
    """

    workers: tuple[str, ...]
    index: int
    is_local: bool = False

    @property
    def n_workers(self) -> int:
        """How many there are, at least 2."""
        return len(self.workers)

    @property
    def is_writer(self) -> bool:
        """Whether this one plans, prints and saves."""
        return self.index == 0

    def name(self, index: int | None = None) -> str:
        """Name a worker in a message.

        Args:
            index: Which; None for this one.

        Returns:
            For instance `worker 1 of 4 (host2:2222)`.
        """
        index = self.index if index is None else index
        return f"worker {index} of {self.n_workers} ({self.workers[index]})"

    def as_tf_config(self, index: int) -> str:
        """Write the environment variable that clusters set, for one worker."""
        task = {"type": "worker", "index": index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


# --- what was asked for -------------------------------------------------------


def choose_cluster(
    *,
    workers: str | None,
    worker_index: int | None,
    local_workers: int | None,
    environment: Mapping[str, str],
) -> Cluster | None:
    """Find out whether this process is one of several, and which.

    Args:
        workers: As typed to `--workers`, or None.
        worker_index: As typed to `--worker-index`, or None.
        local_workers: As typed to `--local-workers`, or None.
        environment: Where `TF_CONFIG` may be; what is typed wins.

    Returns:
        The cluster; None to train alone.

    Raises:
        InputError: If it is incomplete or contradicts itself.
    """
    if local_workers is not None:
        if workers is not None or worker_index is not None:
            raise InputError(
                "--local-workers starts its own workers; --workers and --worker-index name others",
                hint="give one or the other",
            )
        if local_workers == 1:
            return None
        addresses = tuple(f"{_LOOPBACK}:{port}" for port in _free_ports(local_workers))
        return Cluster(workers=addresses, index=0, is_local=True)
    if workers is not None:
        return _of_options(workers, worker_index)
    config = environment.get("TF_CONFIG", "").strip()
    if worker_index is not None:
        raise InputError("--worker-index says which of the --workers this is", hint=_EXAMPLE)
    return _of_tf_config(config) if config else None


def _of_options(text: str, index: int | None) -> Cluster | None:
    workers = _checked([part.strip() for part in text.split(",") if part.strip()], "--workers")
    if index is None:
        if len(workers) == 1:
            return None
        raise InputError(
            f"which of the {len(workers)} workers is this one?",
            hint=f"add --worker-index, from 0 ({workers[0]}) to {len(workers) - 1} ({workers[-1]})",
        )
    if not 0 <= index < len(workers):
        raise InputError(
            f"--worker-index {index}: there are {len(workers)} workers, counted from 0",
            hint=f"give 0 to {len(workers) - 1}",
        )
    return Cluster(workers=workers, index=index) if len(workers) > 1 else None


def _of_tf_config(text: str) -> Cluster | None:
    """Read `TF_CONFIG`, in which the first worker may be called chief."""
    hint = "unset TF_CONFIG to train alone, or give --workers and --worker-index"
    try:
        config = json.loads(text)
    except ValueError as error:
        raise InputError(f"TF_CONFIG is not JSON: {error}", hint=hint) from error
    cluster = config.get("cluster") if isinstance(config, dict) else None
    if not isinstance(cluster, dict):
        cluster = {}
    jobs = {name: tasks for name, tasks in cluster.items() if tasks}
    if not jobs:
        return None
    for name in jobs:
        if name not in ("chief", "master", "worker"):
            raise InputError(
                f"TF_CONFIG has tasks of type {printable(repr(name))}; charlstm knows workers and "
                "a chief",
                hint=hint,
            )
    addresses: list[Any] = []
    first: dict[str, int] = {}
    for name in ("chief", "master", "worker"):
        tasks = jobs.get(name, [])
        if isinstance(tasks, dict):  # sparse: {"0": "host:port"}
            tasks = [tasks.get(str(n)) for n in range(len(tasks))]
        if not isinstance(tasks, list):
            raise InputError(f"TF_CONFIG: {name} is not a list of host:port", hint=hint)
        first[name] = len(addresses)
        addresses += tasks
    workers = _checked(addresses, "TF_CONFIG")
    task = config.get("task")
    kind, index = "", -1
    if isinstance(task, dict) and str(task.get("index")).isdecimal():
        kind, index = str(task.get("type")), int(str(task["index"]))
    if not 0 <= index < len(jobs.get(kind, [])):
        raise InputError(
            f"TF_CONFIG does not say which of its {len(workers)} workers this is: task is "
            f"{printable(json.dumps(task))}",
            hint='"task": {"type": "worker", "index": 0} is the first',
        )
    if len(workers) == 1:
        return None
    return Cluster(workers=workers, index=first[kind] + index)


def _checked(addresses: list[Any], where: str) -> tuple[str, ...]:
    """Check that each address is `host:port`, and none there twice."""
    if not addresses:
        raise InputError(f"{where} names no worker", hint=_EXAMPLE)
    if len(addresses) > MAX_WORKERS:
        raise InputError(f"{where} names {len(addresses)} workers; at most {MAX_WORKERS:,} may be")
    for address in addresses:
        host, port = _split(address) if isinstance(address, str) else ("", "")
        is_port = port.isdecimal() and port.isascii() and 0 < int(port) < 65_536
        if not is_port or not _is_host(host):
            raise InputError(
                f"{where}: {printable(repr(address))} is not host:port, the port from 1 to 65535",
                hint="for instance host1:2222, 10.0.0.3:2222 or [fd00::3]:2222",
            )
    seen: set[str] = set()
    for address in addresses:
        if address.lower() in seen:
            raise InputError(
                f"{where} has {address} twice",
                hint="two workers on one host need a port each",
            )
        seen.add(address.lower())
    return tuple(addresses)


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    return ("", "") if ":" in host else (host, port)


def _is_host(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return _HOST.fullmatch(host) is not None


def _free_ports(n: int) -> list[int]:
    """Let the system choose ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(n):  # all held until the last is found, so that none comes twice
            listener = stack.enter_context(socket.socket())
            listener.bind((_LOOPBACK, 0))
            ports.append(int(listener.getsockname()[1]))
        return ports


# --- how the network stands ---------------------------------------------------


def held_address(cluster: Cluster) -> tuple[int, Address] | None:
    """Tell which port of this worker can be held to which address.

    Args:
        cluster: The workers.

    Returns:
        Both; None where it answers at every address (`binding.own_address`).
    """
    host, port = _split(cluster.workers[cluster.index])
    address = own_address(host)
    return None if address is None else (int(port), address)


def check_port(cluster: Cluster) -> None:
    """Check that this worker's port is free.

    Args:
        cluster: The workers.

    Raises:
        OutputError: If another program listens on it.
    """
    _listener(cluster).close()


def warnings_of(cluster: Cluster) -> list[str]:
    """Say what a person should know about who can reach the workers.

    Args:
        cluster: The workers.

    Returns:
        Lines. TensorFlow's port asks nobody for a password, runs what it is
        sent, and listens on all addresses of a machine, unless it is held to
        the one that is named.
    """
    is_held = held_address(cluster) is not None
    password = "without a password" + ("" if is_held else ", on every network of its machine")
    public = [address for address in cluster.workers if _is_public(_split(address)[0])]
    own = _own_address()
    if public:
        where = f"{', '.join(public)} can be reached from the internet"
    elif not is_held and own is not None and _is_public(own):
        where = f"this machine has the public address {own}"
    elif cluster.is_local:
        return []
    else:
        listening = "" if is_held else " and listen on every network of their machines"
        return [
            f"the workers' ports have no password{listening}: let a firewall admit the workers "
            "only (docs/distributed.md)"
        ]
    return [
        f"warning: {where}, and a worker's port runs whatever anyone sends it, {password}: "
        "let a firewall admit the workers only (docs/distributed.md)"
    ]


def _is_public(host: str) -> bool:
    """Tell whether a host has an address outside private networks; a look-up may fail."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_global
    with contextlib.suppress(OSError, UnicodeError):
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
        return any(ipaddress.ip_address(address).is_global for address in found)
    return False


def _own_address() -> str | None:
    """Return the address that this machine has towards the internet; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return None


def unreachable(
    cluster: Cluster, *, among: Iterable[int] | None = None, seconds: float = 0.5
) -> list[int]:
    """List the workers at whose port nobody answers.

    Args:
        cluster: The workers.
        among: Indices to ask; None for all.
        seconds: How long to wait for each.

    Returns:
        Indices, this worker's left out.
    """
    silent = []
    for index in range(cluster.n_workers) if among is None else among:
        if index == cluster.index:
            continue
        host, port = _split(cluster.workers[index])
        try:
            with socket.create_connection((host, int(port)), timeout=seconds):
                pass
        except OSError:
            silent.append(index)
    return silent


def wait_for_workers(
    cluster: Cluster,
    *,
    should_stop: Callable[[], bool],
    note: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
    read: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until every other worker has been reached once.

    TensorFlow would wait too, but without an end, and deaf to Ctrl-C. Until it
    takes this worker's port over, the port is answered here, so that whichever
    worker comes last finds all others.

    Args:
        cluster: The workers.
        should_stop: Asked while waiting.
        note: Told who is missing, once.
        check: Called while waiting; raises if one will not come.
        read: Seconds that only grow.

    Raises:
        OutputError: If another program listens on this worker's port.
        TrainingError: If some do not come.
        KeyboardInterrupt: If this worker was told to stop.
    """
    started, is_told = read(), False
    missing = list(range(cluster.n_workers))
    with _answered(cluster):
        while missing := unreachable(cluster, among=missing):
            check()
            if should_stop():
                raise KeyboardInterrupt
            waited = read() - started
            names = ", ".join(cluster.name(index) for index in missing)
            if waited > JOIN_SECONDS:
                raise TrainingError(
                    f"waited {JOIN_SECONDS / 60:.0f} minutes for {names}",
                    hint="start a worker on each host with the same --workers, and let the "
                    "firewall admit them",
                )
            if waited > _SECONDS_TO_TELL and not is_told:
                note(f"waiting for {names}")
                is_told = True
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _answered(cluster: Cluster) -> Iterator[None]:
    """Accept connections on this worker's port, and close them when the other side does."""
    with _listener(cluster) as listener:
        if held := held_address(cluster):
            with contextlib.suppress(OSError):  # told when TensorFlow's cannot be held
                hold(listener, held[1])

        def answer() -> None:
            with contextlib.suppress(OSError):  # closed: the wait is over
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(1.0)
                        connection.recv(1)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes it
            listener.close()
            thread.join(2.0)


def _listener(cluster: Cluster) -> socket.socket:
    """Take this worker's port on every address, as TensorFlow will."""
    _, port = _split(cluster.workers[cluster.index])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True
            )
        return socket.create_server(("", int(port)))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OutputError(
            f"{cluster.name()}: cannot listen on port {port}: {reason}",
            hint="end the other run, or give this worker another port",
        ) from error


# --- sharing the rows out -----------------------------------------------------


def share_of(n: int, index: int, n_shares: int) -> slice:
    """Cut n rows into shares that differ by one at most.

    Args:
        n: Rows.
        index: Which share.
        n_shares: How many there are.

    Returns:
        The rows of the share; none of them if there are more shares than rows.
    """
    return slice(index * n // n_shares, (index + 1) * n // n_shares)


# --- workers on this machine --------------------------------------------------


@contextlib.contextmanager
def local_workers(
    cluster: Cluster, corpus: Path, *, threads: int, device: str = "auto"
) -> Iterator[Callable[[], None]]:
    """Start the other workers on this machine, and end them with this block.

    Args:
        cluster: With this process as worker 0.
        corpus: The prepared text.
        threads: For each worker.
        device: As typed to `--device`.

    Yields:
        A function that raises `LostWorkerError` if one has ended; it has said
        why on stderr.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHARLSTM_")}
    kept |= {k: v for k, v in os.environ.items() if k == "CHARLSTM_DEBUG"}
    command = [sys.executable, "-m", "charlstm", "train", str(corpus.resolve())]
    children: list[subprocess.Popen[bytes]] = []

    def check() -> None:
        ended = [n for n, child in enumerate(children, 1) if child.poll() is not None]
        if ended:
            raise lost(cluster, ended, "")

    deadline = 0.0
    try:
        for index in range(1, cluster.n_workers):
            told = {"TF_CONFIG": cluster.as_tf_config(index), LOCAL_WORKER: "1"}
            children.append(
                subprocess.Popen(
                    [*command, "--threads", str(threads), "--device", device],
                    env=kept | told,
                    # Its end tells the worker that this process is gone.
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                )
            )
        yield check
        deadline = time.monotonic() + _LAST_SECONDS  # after an error, none
    finally:
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdin is not None:
                child.stdin.close()


def end_with_parent() -> None:
    """Let a worker that `local_workers` started end soon after the process that did."""
    if LOCAL_WORKER not in os.environ:
        return
    stdin = sys.stdin.buffer

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            stdin.read()
        time.sleep(_LAST_SECONDS)  # for what it has to say
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def bounded(cluster: Cluster, *, seconds: float = CONNECT_SECONDS) -> Iterator[None]:
    """Kill this process if what it does in this block takes too long.

    While TensorFlow connects the workers nothing of Python runs, and if one
    dies just then, it waits for an hour. So a small process watches this one,
    says what is wrong, and kills it, which makes its exit code 137.

    Args:
        cluster: The workers.
        seconds: How long it may take.

    Yields:
        Nothing.
    """
    text = (
        f"Error: {cluster.name()}: the others answered, but did not connect in {seconds:.0f} "
        "seconds; one may have ended meanwhile\nhint: start all of them again\n"
    )
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), str(seconds), text]
    guard = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


class LostWorkerError(TrainingError):
    """Workers do not answer any more, so that the others cannot go on.

    Attributes:
        gone: Their indices, as far as is known.
    """

    gone: tuple[int, ...] = ()


def lost(cluster: Cluster, gone: list[int], reason: str) -> LostWorkerError:
    """Say that the workers cannot go on together.

    Args:
        cluster: The workers.
        gone: Those that do not answer, as far as is known.
        reason: What TensorFlow says, for when none is known.

    Returns:
        The error, which names them.
    """
    names = ", ".join(cluster.name(index) for index in gone)
    what = f"{names} {'does' if len(gone) == 1 else 'do'} not answer any more"
    if not gone:
        what = f"the workers lost each other: {printable(reason)}"
    error = LostWorkerError(
        f"{what}; all stop, and the last checkpoint is kept",
        hint="start all of them again with --resume; their number may be another",
    )
    error.gone = tuple(gone)
    return error
