"""Models as a stranger could make them: all sums are right, and nothing else is.

Each attack is made on a copy of a good model, with a manifest that vouches for
it, and then meets every command that reads a model. `violations` lists what
must not be: an exit code of 0 where the command had to refuse, a traceback, a
character that steers a terminal, 300 MB of memory, an endless wait, a file
outside the model read or written. The commands run in processes of their own,
whose memory the system counts; that the list would not stay empty without the
protections is shown by taking them out.

What one file of a checkpoint may not be is in `test_checkpoint`; here it is
the commands that must not fall for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import run
from helpers import (
    CHARACTERS,
    FILES,
    change_manifest,
    forge,
    forge_json,
    make_network,
    random_weights,
    save,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_mutations import take_out

from charlstm import checkpoint, models, storage
from charlstm.checkpoint import (
    MAX_JSON_BYTES,
    load_checkpoint,
    load_training_state,
    state_shapes,
    weight_shapes,
)
from charlstm.config import TrainingConfig
from charlstm.errors import CharlstmError, OutputError
from charlstm.logs import append_log, cut_logs, read_log, replace_logs
from charlstm.models import (
    describe_model,
    list_checkpoints,
    lock_model,
    open_checkpoint,
    verify_model,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks, pipes and links of Unix")

WEIGHTS, CONFIG, VOCABULARY_JSON, STATE, TRAINER, MANIFEST = FILES
MAX_MEGABYTES = 300
SECONDS = 20  # a guard against endless waiting, not a measurement
TEN_GIGABYTES = 10 << 30
# Sets a terminal's title, rings, clears the screen in one byte, turns text round.
EVIL = "\x1b]0;evil\x07\x9b2J\u202e\x7f"
COMMANDS = {
    "generate": ["generate", "--random-seed", "7", "-n", "20", "--model", "king"],
    "info": ["info", "king"],
    "list": ["info"],
    "verify": ["info", "king", "--verify"],
    "evaluate": ["evaluate", "abc.txt", "--model", "king"],
    "resume": ["train", "--resume", "--model", "king"],
}
# Who reads what, and so must refuse it. The list shows what is left.
READERS = {
    WEIGHTS: ("generate", "verify", "evaluate", "resume"),
    VOCABULARY_JSON: ("generate", "verify", "evaluate", "resume"),
    STATE: ("verify", "resume"),
    TRAINER: ("verify", "resume"),
    CONFIG: ("generate", "info", "verify", "evaluate", "resume"),
    MANIFEST: ("generate", "info", "verify", "evaluate", "resume"),
}


# --- the harness ------------------------------------------------------------------

# Forks for each attack, so that the interpreter starts once and what the system
# counts is the attack's own.
METER = """
import json, os, signal, sys, tempfile, traceback
import numpy, safetensors.numpy, threadpoolctl, tqdm
import charlstm.generation, charlstm.planning, charlstm.scoring, charlstm.terminal
from charlstm.__main__ import main

def work(arguments):
    sys.argv = ["charlstm", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
    return 99

def work_on(request, outputs, codes):
    os.chdir(request["folder"])
    for arguments, (out, err) in zip(request["commands"], outputs):
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        signal.alarm(request["seconds"])  # ends the process
        if request["is_real"]:
            os.execv(sys.executable, [sys.executable, "-m", "charlstm", *arguments])
        code = work(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(codes, b"%d " % code)

def read(file):
    file.seek(0)
    return file.read().decode("utf-8", "backslashreplace")

for line in sys.stdin:
    request = json.loads(line)
    outputs = [(tempfile.TemporaryFile(), tempfile.TemporaryFile()) for _ in request["commands"]]
    codes = tempfile.TemporaryFile()
    pid = os.fork()
    if not pid:
        try:
            work_on(request, outputs, codes.fileno())
        finally:
            os._exit(0)
    _, status, used = os.wait4(pid, 0)
    ended = [int(code) for code in read(codes).split()]
    ended += [os.waitstatus_to_exitcode(status)] * (len(outputs) - len(ended))
    unit = 1 if sys.platform == "darwin" else 1024
    answers = [
        {
            "exit_code": code,
            "stdout": read(out),
            "stderr": read(err),
            "megabytes": used.ru_maxrss * unit / 1e6,
        }
        for code, (out, err) in zip(ended, outputs)
    ]
    for file in (codes, *sum(outputs, ())):
        file.close()
    print(json.dumps(answers), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended; a negative exit code is a signal's.

    The megabytes are the most that it and those run with it took at any time.
    """

    exit_code: int
    stdout: str
    stderr: str
    megabytes: float = 0.0


Call = Callable[[list[list[str]]], list[Outcome]]


@pytest.fixture(scope="module")
def meter() -> Iterator[Callable[..., list[Outcome]]]:
    """Runs commands in a process of its own, in the working folder of now."""
    with subprocess.Popen(
        [sys.executable, "-c", METER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def call(
            commands: list[list[str]], *, is_real: bool = False, seconds: int = SECONDS
        ) -> list[Outcome]:
            assert len(commands) == 1 or not is_real
            request = {
                "folder": str(Path.cwd()),
                "commands": commands,
                "seconds": seconds,
                "is_real": is_real,
            }
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            wait = SECONDS * (len(commands) + 2)
            assert select.select([process.stdout], [], [], wait)[0], "the meter does not answer"
            return [Outcome(**answer) for answer in json.loads(process.stdout.readline())]

        yield call
        process.stdin.close()


def call_here(commands: list[list[str]]) -> list[Outcome]:
    """Run commands in this process, where a protection may have been taken out."""
    outcomes = []
    for arguments in commands:
        # In colour, or Click would take some of what steers a terminal away itself.
        result = run(*arguments, color=True)
        stderr = result.stderr
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            stderr += f"Traceback: {result.exception!r}"
        outcomes.append(Outcome(result.exit_code, result.stdout, stderr))
    return outcomes


@dataclasses.dataclass(frozen=True)
class Attack:
    """A way to make a good model hostile.

    Attributes:
        make: Changes the model.
        file: What must be named.
        stopped: Commands that must refuse the model; the others may do either,
            but neither stumble nor do harm.
        is_harmless: Whether the text must be that of the good model.
    """

    make: Callable[[Place], object]
    file: str
    stopped: tuple[str, ...] = ()
    is_harmless: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """A working folder with the model `king`, and a folder that is none of its business."""

    model: Path
    folder: Path
    outside: Path

    def link_away(self, path: Path) -> None:
        """Put a link in a file's place, to the same content elsewhere."""
        target = self.outside / path.name
        if path.exists():
            path.rename(target)
        else:
            target.write_text('{"step": 10}\n')
        path.symlink_to(target)


def state_of(folder: Path) -> dict[str, object]:
    """All that can be seen of what is in a folder, without opening what may not be."""
    state: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 24:
            content = path.read_bytes()
        state[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return state


def violations(attack: Attack, place: Place, call: Call) -> list[str]:
    """Make an attack, run every command, and list what must not be."""
    (good,) = call_here([COMMANDS["generate"]])
    attack.make(place)
    before = state_of(place.model), state_of(place.outside)
    found = []
    outcomes = call(list(COMMANDS.values()))
    for name, outcome in zip(COMMANDS, outcomes, strict=True):
        problems = judge(outcome, attack, name)
        if name == "generate" and attack.is_harmless and outcome.stdout != good.stdout:
            problems.append("the text changed")
        found += [f"{name}: {problem}; {outcome}"[:1_000] for problem in problems]
    if (state_of(place.model), state_of(place.outside)) != before:
        found.append("something was written")
    if max(outcome.megabytes for outcome in outcomes) > MAX_MEGABYTES:
        found.append(f"took {outcomes[0].megabytes:.0f} MB")
    return found


def judge(outcome: Outcome, attack: Attack, command: str) -> list[str]:
    """List what is wrong with how a command ended."""
    problems = []
    said = outcome.stdout + outcome.stderr
    if outcome.exit_code not in (0, 1, 2):
        problems.append("it was killed")
    if "Traceback" in said or "fault of charlstm" in said:
        problems.append("an unforeseen error")
    if outcome.exit_code and command != "verify":
        lines = outcome.stderr.splitlines()
        if not any(line.startswith("Error: ") for line in lines):
            problems.append("no error is named")
    if command in attack.stopped:
        if outcome.exit_code != 1:
            problems.append("not refused")
        if attack.file not in said and "manifest" not in said:
            problems.append("the file is not named")
    # A vocabulary's characters are the data that `generate` prints.
    shown = outcome.stderr if command == "generate" else said
    if steering := {c for c in shown if not c.isprintable() and c != "\n"}:
        problems.append(f"prints {steering}")
    if max(map(len, shown.splitlines()), default=0) > 2_000:
        problems.append("floods the terminal")
    return problems


@pytest.fixture(scope="module")
def king_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("hostile") / "king"
    save(model, 10)
    append_log(model, "history.jsonl", {"step": 10, "val_loss": 2.0})
    return model


@pytest.fixture
def place(king_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A working folder with the good model `king` and a text that it knows."""
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "decoy.txt").write_text("none of your business")
    monkeypatch.chdir(work)
    Path("abc.txt").write_text("abc abcd dcba\n")
    model = Path("checkpoints/king")
    shutil.copytree(king_once, model)
    return Place(model, model / "step-00000010", outside)


def test_the_good_model_passes_every_command(place: Place, meter: Call) -> None:
    outcomes = dict(zip(COMMANDS, meter(list(COMMANDS.values())), strict=True))
    codes = {name: outcome.exit_code for name, outcome in outcomes.items()}
    # Its prepared text is nowhere, which is found after the model is read.
    assert codes == dict.fromkeys(COMMANDS, 0) | {"resume": 2}
    assert "prepared text" in outcomes["resume"].stderr
    assert len(outcomes["generate"].stdout) > 20
    assert all(0 < o.megabytes < MAX_MEGABYTES / 2 for o in outcomes.values())
    nothing = Attack(lambda place: None, WEIGHTS, is_harmless=True)
    assert violations(nothing, place, meter) == []


# --- files of arrays --------------------------------------------------------------

Header = dict[str, Any]


def split_arrays(data: bytes) -> tuple[Header, bytes]:
    (n_header,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + n_header]), data[8 + n_header :]


def join_arrays(header: bytes | Header, body: bytes, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def changed_header(
    change: Callable[[Header], object], *, more: int = 0
) -> Callable[[Header, bytes], bytes]:
    """Change a file's header; `more` bytes follow its arrays, or are missing."""

    def make(header: Header, body: bytes) -> bytes:
        change(header)
        return join_arrays(header, body + bytes(more) if more >= 0 else body[:more])

    return make


def first(header: Header) -> Header:
    """The array at the start of the body."""
    found: Header = min(header.values(), key=lambda about: about["data_offsets"])
    return found


def last(header: Header) -> Header:
    found: Header = max(header.values(), key=lambda about: about["data_offsets"])
    return found


def with_twin(header: Header, body: bytes, *, is_right_last: bool) -> bytes:
    """Name an array twice; the parser that takes the last one sees a good file."""
    text = json.dumps(header)
    twin = '"dense/bias": {"dtype": "F32", "shape": [7], "data_offsets": [0, 28]}'
    if is_right_last:
        return join_arrays(f"{{{twin}, {text[1:]}".encode(), body)
    return join_arrays(f"{text[:-1]}, {twin}}}".encode(), body)


def with_token(token: str) -> Callable[[Header, bytes], bytes]:
    """Write a number that JSON has and `json.dumps` would not write."""

    def make(header: Header, body: bytes) -> bytes:
        first(header)["shape"] = ["TOKEN"]
        return join_arrays(json.dumps(header).replace('"TOKEN"', token).encode(), body)

    return make


def spread(header: Header) -> None:
    """Leave a hole of four bytes after the first array."""
    start = first(header)
    for about in header.values():
        if about is not start:
            about["data_offsets"] = [offset + 4 for offset in about["data_offsets"]]


def overlap(header: Header) -> None:
    """Let the last two arrays share their bytes."""
    second, final = sorted(header.values(), key=lambda about: about["data_offsets"])[-2:]
    start, end = final["data_offsets"]
    size = end - start
    final["data_offsets"] = [second["data_offsets"][1] - size, second["data_offsets"][1]]


def set_first(**values: object) -> Callable[[Header, bytes], bytes]:
    return changed_header(lambda header: first(header).update(values))


def extra(name: str) -> Callable[[Header, bytes], bytes]:
    """One array more, of nothing, under this name."""

    def change(header: Header) -> None:
        end = last(header)["data_offsets"][1]
        header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}

    return changed_header(change)


def raw(data: bytes) -> Callable[[Header, bytes], bytes]:
    return lambda header, body: data


ARRAY_FILES: dict[str, Callable[[Header, bytes], bytes]] = {
    "terabytes": changed_header(
        lambda header: last(header).update(
            shape=[1 << 40], data_offsets=[last(header)["data_offsets"][0], 1 << 42]
        )
    ),
    "terabytes in no bytes": set_first(shape=[1 << 40]),
    "a size beyond 63 bits": set_first(shape=[1 << 62, 4]),
    "a size that comes round to 0": set_first(shape=[1 << 32, 1 << 32]),
    "a size beyond 64 bits in one": set_first(shape=[1 << 64]),
    "a negative size": set_first(shape=[-7]),
    "two negative sizes": set_first(shape=[-1, -7]),
    "a broken size": set_first(shape=[7.0]),
    "a true size": set_first(shape=[True, 7]),
    "no sizes": changed_header(lambda header: last(header).update(shape=[])),
    "a thousand sizes": set_first(shape=[1] * 1_000 + [7]),
    "overlapping": changed_header(overlap),
    "a gap": changed_header(spread, more=4),
    "beyond the end": changed_header(lambda h: last(h).update(shape=[1_000])),
    "out of range": changed_header(spread),
    "turned round": set_first(data_offsets=[8, 0]),
    "negative offsets": set_first(data_offsets=[-28, 0]),
    "offsets beyond 64 bits": set_first(data_offsets=[0, 1 << 64]),
    "broken offsets": set_first(data_offsets=[0.0, 28.0]),
    "one offset": set_first(data_offsets=[0]),
    "three offsets": set_first(data_offsets=[0, 28, 28]),
    "no offsets": changed_header(lambda header: first(header).pop("data_offsets")),
    "no type": changed_header(lambda header: first(header).pop("dtype")),
    "an unknown type": set_first(dtype=EVIL),
    "integers": set_first(dtype="I32"),
    "halves of a type": set_first(dtype="BF16"),
    "quarter bytes": set_first(dtype="F4"),
    "a list as array": changed_header(lambda header: header.update(x=[1, 2])),
    "metadata of numbers": changed_header(lambda header: header.update(__metadata__={"a": 1})),
    "named twice": lambda header, body: with_twin(header, body, is_right_last=False),
    "named twice, the right one last": lambda h, b: with_twin(h, b, is_right_last=True),
    "bytes more": changed_header(lambda header: None, more=9),
    "bytes missing": changed_header(lambda header: None, more=-9),
    "infinity as size": with_token("1e999"),
    "a number of 5,000 digits": with_token("9" * 5_000),
    "not a number": with_token("NaN"),
    "named ../": extra("../../../outside/decoy.txt"),
    "named /": extra("/etc/passwd"),
    "named by control characters": extra(f"x\n\r\0{EVIL}"),
    "named by a half": extra("\ud800"),
    "ten thousand arrays": changed_header(
        lambda header: [
            header.update({f"x{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
            for n in range(10_000)
        ]
    ),
    "an endless header": lambda header, body: join_arrays(
        json.dumps(header).encode() + b" " * (1 << 20), body
    ),
    "a header of all 64 bits": lambda h, b: join_arrays(h, b, length=(1 << 64) - 1),
    "a header of the sign": lambda h, b: join_arrays(h, b, length=1 << 63),
    "a header of a terabyte": lambda h, b: join_arrays(h, b, length=1 << 40),
    "a header beyond the end": lambda h, b: join_arrays(
        h, b, length=len(json.dumps(h) + "x" * 9**4)
    ),
    "a header of nothing": lambda h, b: join_arrays(h, b, length=0),
    "a header nested deeply": lambda h, b: join_arrays(b"[" * 100_000, b),
    "a header nested just so": lambda h, b: join_arrays(
        json.dumps(h)[:-1].encode() + b', "x": ' + b"[" * 930 + b"]" * 930 + b"}", b
    ),
    "a header of a number": lambda h, b: join_arrays(b"7", b),
    "a header of no text": lambda h, b: join_arrays(b"\xff\xfe{}", b),
    "empty": raw(b""),
    "seven bytes": raw(b"\0" * 7),
}


def array_attack(name: str, make: Callable[[Header, bytes], bytes]) -> Attack:
    def attack(place: Place) -> None:
        header, body = split_arrays((place.folder / name).read_bytes())
        header.pop("__metadata__", None)
        forge(place.folder, name, make(header, body))

    return Attack(attack, name, READERS[name])


def value_attack(name: str, array: str, value: float) -> Attack:
    def attack(place: Place) -> None:
        arrays = safetensors.numpy.load((place.folder / name).read_bytes())
        arrays[array].reshape(-1)[-1:] = value
        forge(place.folder, name, safetensors.numpy.save(arrays))

    return Attack(attack, name, READERS[name])


def other_array(name: str, array: str, value: np.ndarray) -> Attack:
    def attack(place: Place) -> None:
        arrays = safetensors.numpy.load((place.folder / name).read_bytes())
        forge(place.folder, name, safetensors.numpy.save(arrays | {array: value}))

    return Attack(attack, name, READERS[name])


def array_attacks() -> Iterator[tuple[str, Attack]]:
    for name, (what, make) in itertools.product((WEIGHTS, STATE), ARRAY_FILES.items()):
        yield f"{name}: {what}", array_attack(name, make)
    for value in (math.nan, math.inf, -math.inf):
        yield f"{WEIGHTS}: {value}", value_attack(WEIGHTS, "lstm_2/kernel", value)
        velocity = "optimizer/lstm_1/bias/velocity"
        yield f"{STATE}: {value}", value_attack(STATE, velocity, value)
        rate = "optimizer/learning_rate"
        yield f"{STATE}: {value} as rate", other_array(STATE, rate, np.array(value, np.float32))
    transposed = random_weights(make_network())["dense/kernel"].T.copy()
    yield f"{WEIGHTS}: transposed", other_array(WEIGHTS, "dense/kernel", transposed)
    doubles = random_weights(make_network())["dense/kernel"].astype(np.float64)
    yield f"{WEIGHTS}: doubles", other_array(WEIGHTS, "dense/kernel", doubles)
    complex_bias = np.ones(7, np.complex64)
    yield f"{WEIGHTS}: complex", other_array(WEIGHTS, "dense/bias", complex_bias)
    steps = np.array(3.0, np.float32)
    yield f"{STATE}: a broken step", other_array(STATE, "optimizer/iteration", steps)


# --- JSON -------------------------------------------------------------------------


def with_tokens(data: dict[str, Any]) -> bytes:
    """Write JSON in which a string `TOKEN …` is what follows it, whatever that is."""
    text = json.dumps(data)
    while '"TOKEN ' in text:
        before, _, rest = text.partition('"TOKEN ')
        token, _, after = rest.partition('"')
        text = before + token + after
    return text.encode()


def json_attack(
    name: str, *keys: str, value: object, stopped: tuple[str, ...] | None = None
) -> Attack:
    """Put a value where the keys lead, in a file whose sums are right."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    def attack(place: Place) -> None:
        content = json.loads((place.folder / name).read_text(encoding="utf-8"))
        change(content)
        forge(place.folder, name, with_tokens(content))

    return Attack(attack, name, READERS[name] if stopped is None else stopped)


def padded(name: str, unit: bytes, *, n_bytes: int | None = None) -> Attack:
    """Fill a JSON file up to what is read with what takes the most memory."""

    def attack(place: Place) -> None:
        data = (place.folder / name).read_bytes().rstrip()[:-1] + b', "x": ['
        room = (n_bytes or MAX_JSON_BYTES[name]) - len(data) - 3
        forge(place.folder, name, data + b",".join([unit] * (room // (len(unit) + 1))) + b"]}")

    too_much = n_bytes is not None and n_bytes > MAX_JSON_BYTES[name]
    return Attack(attack, name, READERS[name] if too_much else (), is_harmless=not too_much)


def all_padded(place: Place) -> None:
    for name in (CONFIG, VOCABULARY_JSON, TRAINER):
        padded(name, b"[{}]").make(place)


def manifest_attack(change: Callable[[dict[str, Any]], object]) -> Attack:
    return Attack(lambda place: change_manifest(place.folder, change), MANIFEST, READERS[MANIFEST])


ODD_SIZES: dict[str, object] = {
    "negative": -5,
    "none": 0,
    "broken": 5.5,
    "whole but broken": 5.0,
    "true": True,
    "text": "5",
    "null": None,
    "a list": [5],
    "an object": {},
    "infinite": "TOKEN 1e999",
    "not a number": "TOKEN NaN",
    "beyond 63 bits": 1 << 63,
    "beyond 64 bits, and 5": (1 << 64) + 5,
    "of 4,000 digits": "TOKEN " + "9" * 4_000,
    "of 5,000 digits": "TOKEN " + "9" * 5_000,
}
WRITERS_AND_TRAINERS = ("generate", "verify", "evaluate", "resume")


def json_attacks() -> Iterator[tuple[str, Attack]]:
    for field in ("units", "layers", "vocabulary_size", "seq_length"):
        for what, value in ODD_SIZES.items():
            yield f"{field} {what}", json_attack(CONFIG, "network", field, value=value)
    for field in ("batch_size", "threads", "epochs", "learning_rate"):
        for what in ("negative", "text", "infinite", "of 4,000 digits", "a list"):
            value = ODD_SIZES[what]
            yield f"{field} {what}", json_attack(CONFIG, "training", field, value=value)
    for what in ("infinite", "text", "null", "broken", "true", "of 5,000 digits"):
        value = ODD_SIZES[what]
        yield f"characters {what}", json_attack(CONFIG, "corpus", "characters", value=value)
    for field in ("step", "total_steps", "eval_every", "seconds", "loss_sum", "n_failures"):
        for what in ("negative", "infinite", "not a number", "beyond 63 bits", "of 4,000 digits"):
            yield f"trainer's {field} {what}", json_attack(TRAINER, field, value=ODD_SIZES[what])
    # Allowed one by one, and together more than there is, or than the weights have.
    for what, changes in {
        "more units": {"units": 6},
        "more layers": {"layers": 3},
        "fewer layers": {"layers": 1},
        "another input": {"input": "scaled"},
        "as large as can be": {"units": 16_384, "layers": 64},
    }.items():

        def change(config: dict[str, Any], changes: dict[str, Any] = changes) -> None:
            config["network"] |= changes

        yield (
            f"config of {what}",
            Attack(
                lambda place, change=change: forge_json(place.folder, CONFIG, change),
                ".safetensors",
                WRITERS_AND_TRAINERS,
            ),
        )
    size = json_attack(CONFIG, "network", "vocabulary_size", value=8)
    yield "more characters", dataclasses.replace(size, stopped=WRITERS_AND_TRAINERS)
    batch = json_attack(CONFIG, "training", "batch_size", value=1_000_000)
    yield "a larger batch", dataclasses.replace(batch, file=STATE, stopped=READERS[STATE])
    # Texts that are printed, and such as are no texts.
    for keys in (("recipe",), ("corpus", "sha256"), ("training", "lowercase")):
        for what, value in {"of control characters": EVIL, "no text": 7}.items():
            yield f"{keys[-1]} {what}", json_attack(CONFIG, *keys, value=value)
    for field in ("encoding", "normalize", "lowercase", "keep_boilerplate"):
        for what, value in {"of control characters": EVIL, "no text": 7}.items():
            yield (
                f"option {field} {what}",
                json_attack(CONFIG, "corpus", "options", field, value=value),
            )
    for what, value in {
        "control characters": EVIL,
        "lines": "a\nError: b\rc",
        "a way up": "../../../outside",
        "a way out": "/etc/passwd",
        "half a character": "\ud800",
    }.items():
        # A name is only shown, and a path only looked at.
        for field in ("name", "path", "source_name"):
            named = json_attack(CONFIG, "corpus", field, value=value, stopped=())
            yield f"{field} of {what}", dataclasses.replace(named, is_harmless=True)
    for what, value in {"a device": "/dev/zero", "NUL": "\0", "5,000 letters": "x" * 300}.items():
        stored = json_attack(CONFIG, "corpus", "path", value=value, stopped=())
        yield f"path of {what}", dataclasses.replace(stored, is_harmless=True)
    for what, value in {"a number": 7, "a list": [], "false": False}.items():
        yield f"source of {what}", json_attack(CONFIG, "corpus", "source_name", value=value)
    for what, value in {"a text": "abc", "an object": {"abc": 1}, "numbers": [1]}.items():
        yield f"seed windows of {what}", json_attack(CONFIG, "seed_windows", value=value)
    unknown = json_attack(CONFIG, "seed_windows", value=["xyz"])
    yield (
        "seed windows of others",
        dataclasses.replace(unknown, file="step-00000010", stopped=WRITERS_AND_TRAINERS),
    )
    evil = json_attack(CONFIG, "versions", value={EVIL: EVIL}, stopped=())
    yield "versions of control characters", dataclasses.replace(evil, is_harmless=True)
    letters = sorted(CHARACTERS)
    for what, characters in {
        "control characters": [*letters[:6], EVIL],
        "twins": [*letters[:6], "d"],
        "numbers": [*letters[:6], 7],
        "an object": dict.fromkeys(letters, 1),
        "a text": CHARACTERS,
        "another order": letters[::-1],
        "a pair": [*letters[:6], "éé"],
        "nothing": [],
        "null": None,
        "a million lists": [[]] * 1_000_000,
    }.items():
        yield (
            f"vocabulary of {what}",
            json_attack(VOCABULARY_JSON, "characters", value=characters),
        )


def paddings() -> Iterator[tuple[str, Attack]]:
    for name, unit in itertools.product((CONFIG, VOCABULARY_JSON, TRAINER), (b"[{}]", b"0.5")):
        yield f"{name} full of {unit!r}", padded(name, unit)
    too_large = {CONFIG: 1 << 23, VOCABULARY_JSON: 1 << 24, TRAINER: 1 << 23}
    for name, n_bytes in too_large.items():
        yield f"{name} of {n_bytes} bytes", padded(name, b"{}", n_bytes=n_bytes)
    yield "all of them full", Attack(all_padded, CONFIG, is_harmless=True)
    for name in (CONFIG, VOCABULARY_JSON, TRAINER):
        deep = "TOKEN " + "[" * 100_000
        yield f"{name} nested deeply", json_attack(name, "x", value=deep)
        for depth in (850, 900, 920, 930, 940, 950, 960, 970, 990):
            # Where exactly it is too deep depends on who calls.
            nested = "TOKEN " + "[" * depth + "]" * depth
            either = json_attack(name, "x", value=nested, stopped=())
            yield f"{name} nested {depth} times", either


def set_file(name: str, **values: object) -> Attack:
    return manifest_attack(lambda manifest: manifest["files"][name].update(values))


def rename_file(name: str, other: str) -> Attack:
    return manifest_attack(
        lambda manifest: manifest["files"].update({other: manifest["files"].pop(name)})
    )


def manifest_attacks() -> Iterator[tuple[str, Attack]]:
    outside = {"n_bytes": 21, "sha256": "0" * 64}
    for name in ("../../../outside/decoy.txt", "/etc/passwd", "..", "", f"x{EVIL}", "a\\b", "a\0b"):
        yield (
            f"a file {name!r} more",
            manifest_attack(lambda manifest, n=name: manifest["files"].update({n: outside})),
        )
        yield f"weights named {name!r}", rename_file(WEIGHTS, name)
    absolute = rename_file(WEIGHTS, f"./{WEIGHTS}")
    yield "weights by another way", absolute
    for name, (what, value) in itertools.product(
        FILES[:-1],
        {"negative": -1, "infinite": math.inf, "huge": 1 << 80, "text": "many"}.items(),
    ):
        attack = set_file(name, n_bytes=value)
        if what in ("negative", "huge"):  # found when the file is read
            attack = dataclasses.replace(attack, file=name, stopped=READERS[name])
        yield f"{name} has {what} bytes", attack
    for field in ("step", "epoch", "val_loss", "train_loss", "written_at"):
        for what, value in {
            "infinite": math.inf,
            "no number": EVIL,
            "huge": 10**400,
            "a list": [1],
        }.items():
            yield (
                f"{field} {what}",
                manifest_attack(lambda m, f=field, v=value: m.update({f: v})),
            )
    yield "files of a list", manifest_attack(lambda m: m.update(files=[EVIL]))
    yield "files of null", manifest_attack(lambda m: m.update(files=None))

    def nest(place: Place, *, depth: int) -> None:
        # As `change_manifest`, but the seal of what is too deep to be written so.
        path = place.folder / MANIFEST
        nested = "[" * depth + "]" * depth
        content = json.loads(path.read_text())
        del content["seal"]
        plain = json.dumps(content | {"x": "DEEP"}, sort_keys=True).replace('"DEEP"', nested)
        seal = checkpoint.hashlib.sha256(plain.encode()).hexdigest()
        text = json.dumps(content | {"x": "DEEP", "seal": seal}).replace('"DEEP"', nested)
        path.write_text(text)

    for depth in (900, 930, 935, 940, 945, 950, 955, 960, 965, 970, 980, 990):
        # Between what can be read and what can be sealed there may be a gap.
        yield (
            f"a manifest nested {depth} times",
            Attack(lambda place, d=depth: nest(place, depth=d), MANIFEST),
        )


# --- files that are none ----------------------------------------------------------


def replaced_by(name: str, make: Callable[[Path], object]) -> Attack:
    def attack(place: Place) -> None:
        (place.folder / name).unlink()
        make(place.folder / name)

    return Attack(attack, name, READERS[name])


def make_device(path: Path) -> None:
    """Make a node of /dev/zero, where that is allowed."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        path.open("rb").close()
    except (AttributeError, OSError) as error:
        pytest.skip(f"no device can be made here: {error}")


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to endless zeros": lambda path: path.symlink_to("/dev/zero"),
    "a link to the input": lambda path: path.symlink_to("/dev/stdin"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a pipe": lambda path: (
        os.mkfifo(Path("pipe")),
        path.symlink_to(Path("pipe").resolve()),
    ),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a folder": Path.mkdir,
    "a device": make_device,
}


def make_sparse(path: Path, n_bytes: int = TEN_GIGABYTES) -> None:
    """Make a file of zeros that takes no room on the disk."""
    path.touch()
    os.truncate(path, n_bytes)
    if path.stat().st_blocks > 1_000:
        path.unlink()
        pytest.skip("this file system has no sparse files")


def sparse_attack(name: str) -> Attack:
    def attack(place: Place) -> None:
        make_sparse(place.folder / name)
        if name != MANIFEST:
            change_manifest(place.folder, lambda m: m["files"][name].update(n_bytes=TEN_GIGABYTES))

    return Attack(attack, name, READERS[name])


def sparse_as_configured(name: str) -> Attack:
    """Ten gigabytes of zeros, in a network that would have them."""

    def attack(place: Place) -> None:
        network = make_network(units=16_384)
        forge_json(place.folder, CONFIG, lambda c: c["network"].update(units=16_384))
        shapes = weight_shapes(network)
        if name == STATE:
            shapes = state_shapes(network, TrainingConfig(batch_size=4))
        n_bytes = 4 * sum(math.prod(shape) for shape in shapes.values())
        make_sparse(place.folder / name, n_bytes)
        change_manifest(place.folder, lambda m: m["files"][name].update(n_bytes=n_bytes))

    stopped = READERS[name] if name == WEIGHTS else ("verify",)
    return Attack(attack, name, stopped)


def folder_link(place: Place) -> None:
    target = place.outside / place.folder.name
    place.folder.rename(target)
    place.folder.symlink_to(target)


def folder_replaced(make: Callable[[Path], object]) -> Callable[[Place], None]:
    def attack(place: Place) -> None:
        shutil.rmtree(place.folder)
        make(place.folder)

    return attack


def no_file_attacks() -> Iterator[tuple[str, Attack]]:
    for name in FILES:
        for what, make in NO_FILES.items():
            yield f"{name} {what}", replaced_by(name, make)
        away = Attack(lambda p, n=name: p.link_away(p.folder / n), name, READERS[name])
        yield f"{name} a link to what it was", away
        yield f"{name} of ten gigabytes", sparse_attack(name)
    yield "weights as large as configured", sparse_as_configured(WEIGHTS)
    yield "state as large as configured", sparse_as_configured(STATE)
    step = "king"
    yield "the folder a link", Attack(folder_link, step, READERS[MANIFEST])
    for what, make in NO_FILES.items():
        if what != "a folder":
            yield f"the folder {what}", Attack(folder_replaced(make), step, READERS[MANIFEST])


def log_attacks() -> Iterator[tuple[str, Attack]]:
    """Text is written without the logs, whatever they are."""

    def replace(place: Place, name: str, make: Callable[[Path], object]) -> None:
        path = place.model / name
        path.unlink(missing_ok=True)
        make(path)

    contents = {
        "of ten gigabytes": make_sparse,
        "of one line": lambda path: path.write_bytes(b"[" * 3_000_000),
        "of odd values": lambda path: path.write_bytes(
            b'{"step": 1e999}\n' + b'{"step": ' + b"9" * 5_000 + b"}\n" + b"\xff\xfe\n"
        ),
    }
    for name, (what, make) in itertools.product(
        ("history.jsonl", "samples.jsonl", ".lock"), (NO_FILES | contents).items()
    ):
        yield (
            f"{name} {what}",
            Attack(lambda p, n=name, m=make: replace(p, n, m), name, is_harmless=True),
        )
    for name in ("history.jsonl", "samples.jsonl", ".lock"):
        away = Attack(lambda p, n=name: p.link_away(p.model / n), name, is_harmless=True)
        yield f"{name} a link to another file", away


ATTACKS = {
    name: attack
    for attacks in (
        array_attacks,
        json_attacks,
        paddings,
        manifest_attacks,
        no_file_attacks,
        log_attacks,
    )
    for name, attack in attacks()
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_model_is_refused(place: Place, meter: Call, name: str) -> None:
    assert violations(ATTACKS[name], place, meter) == []


# The most that is claimed, held or waited for; the interpreter's start included.
REAL = (
    f"{WEIGHTS}: terabytes",
    f"{WEIGHTS}: a header of a terabyte",
    f"{WEIGHTS} of ten gigabytes",
    f"{WEIGHTS} a link to endless zeros",
    "weights as large as configured",
    "config of as large as can be",
    f"{CONFIG} nested deeply",
    f"{MANIFEST} a pipe",
    f"{MANIFEST} of ten gigabytes",
    "all of them full",
    "history.jsonl of ten gigabytes",
)


@pytest.mark.parametrize("name", REAL)
def test_the_real_command_takes_little_time_and_memory(
    place: Place, meter: Callable[..., list[Outcome]], name: str
) -> None:
    attack = ATTACKS[name]
    attack.make(place)
    (outcome,) = meter([COMMANDS["generate"]], is_real=True)
    assert judge(outcome, attack, "generate") == []
    assert outcome.exit_code == ("generate" in attack.stopped)
    assert outcome.megabytes < MAX_MEGABYTES


def test_a_models_name_steers_no_terminal(place: Place, meter: Call) -> None:
    name = f"king{EVIL}\nError: none\r"
    model = place.model.rename(place.model.with_name(name))
    commands = [[name if a == "king" else a for a in arguments] for arguments in COMMANDS.values()]
    nothing = Attack(lambda place: None, WEIGHTS)
    for kind in ("good", "damaged"):
        for command, outcome in zip(COMMANDS, meter(commands), strict=True):
            assert judge(outcome, nothing, command) == [], (kind, command)
            expected = (0, 2) if kind == "good" else (1,)
            assert outcome.exit_code in (expected if command != "list" else (0,)), (kind, command)
        (model / place.folder.name / CONFIG).write_bytes(b"torn")


def test_a_hostile_model_does_not_hide_the_others(place: Place) -> None:
    save(Path("checkpoints/good"), 10)
    forge_json(place.folder, CONFIG, lambda content: content["corpus"].update(characters="many"))
    (outcome,) = call_here([["info"]])
    assert outcome.exit_code == 0
    assert "good" in outcome.stdout
    assert "config.json is damaged" in outcome.stderr
    (outcome,) = call_here([["generate", "-n", "5", "--model", "good"]])
    assert outcome.exit_code == 0


# --- writing where a stranger has been -------------------------------------------------

PLACES = {name: make for name, make in NO_FILES.items() if name != "a device"}


def link_to_decoy(path: Path) -> None:
    path.symlink_to(Path("../outside/decoy.txt").resolve())


@pytest.mark.parametrize("what", [*PLACES, "a link to another file"])
@pytest.mark.parametrize("name", ["history.jsonl", "samples.jsonl"])
def test_a_log_that_is_none_is_not_written(place: Place, name: str, what: str) -> None:
    (place.model / name).unlink(missing_ok=True)
    (PLACES | {"a link to another file": link_to_decoy})[what](place.model / name)

    def seen() -> tuple[object, object]:
        return state_of(place.model)[str(place.model / name)], state_of(place.outside)

    before = seen()
    with pytest.raises(OutputError):
        append_log(place.model, name, {"step": 20})
    with pytest.raises(OutputError):
        cut_logs(place.model, step=10)
    assert list(read_log(place.model, name)) == []
    assert seen() == before
    # What is replaced is the link, not what it points to.
    if what != "a folder":
        replace_logs(place.model, {name: [{"step": 5}]})
        assert list(read_log(place.model, name)) == [{"step": 5}]
    assert state_of(place.outside) == before[1]


def test_a_link_in_the_place_of_a_new_log_is_not_followed(place: Place) -> None:
    before = state_of(place.outside)
    link_to_decoy(place.model / "history.jsonl.new")
    cut_logs(place.model, step=10)
    assert [record["step"] for record in read_log(place.model, "history.jsonl")] == [10]
    assert state_of(place.outside) == before


def test_a_log_of_ten_gigabytes_is_not_read(place: Place) -> None:
    path = place.model / "history.jsonl"
    path.unlink()
    make_sparse(path)
    assert list(read_log(place.model, "history.jsonl")) == []
    with pytest.raises(OutputError, match="at most 1,073,741,824 are read") as caught:
        cut_logs(place.model, step=10)
    assert caught.value.hint == "move it away to go on without it"


@pytest.mark.parametrize("what", [*NO_FILES, "a link to another file"])
def test_a_lock_that_is_none_is_not_taken(place: Place, what: str) -> None:
    (NO_FILES | {"a link to another file": link_to_decoy})[what](place.model / ".lock")
    before = state_of(place.model), state_of(place.outside)
    with pytest.raises(OutputError) as caught, lock_model(place.model):
        pytest.fail("it was taken")
    assert str(place.model) in caught.value.message
    assert (state_of(place.model), state_of(place.outside)) == before


@pytest.mark.tf
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("history.jsonl", "a link to another file"),
        ("history.jsonl", "a link to nothing"),
        ("history.jsonl", "a pipe"),
        ("samples.jsonl", "a link to another file"),
        (".lock", "a link to another file"),
        (".lock", "a pipe"),
    ],
)
def test_training_does_not_go_on_by_a_way_out(trained: Path, name: str, what: str) -> None:
    model, outside = Path("checkpoints/king"), Path("../outside")
    outside.mkdir()
    (outside / "decoy.txt").write_text('{"step": 1}\n')
    (model / name).unlink(missing_ok=True)
    (PLACES | {"a link to another file": link_to_decoy})[what](model / name)

    def seen() -> object:
        kept = {k: v for k, v in state_of(model).items() if "step-" in k or k.endswith(name)}
        return kept, state_of(outside)

    before = seen()
    result = run("train", "--resume", "--model", "king", "--epochs", "5")
    assert result.exit_code == 1, result.output
    assert f"Error: {model / name} is " in result.stderr
    assert "Traceback" not in result.output
    assert seen() == before


# --- that a missing protection would be noticed -----------------------------------------

NOT_CHECKED = {
    "shapes": (
        (checkpoint, "_load_arrays", ("if arrays[key].shape != shape:", "if False:")),
        f"{WEIGHTS}: transposed",
    ),
    "finite values": (
        (
            checkpoint,
            "_load_arrays",
            ("if not np.isfinite(arrays[key]).all():", "if False:"),
        ),
        f"{WEIGHTS}: nan",
    ),
    "finite state": (
        (
            checkpoint,
            "_load_arrays",
            ("if not np.isfinite(arrays[key]).all():", "if False:"),
        ),
        f"{STATE}: nan",
    ),
    "names": (
        (checkpoint, "_load_arrays", ("if set(arrays) != set(shapes):", "if False:")),
        f"{WEIGHTS}: named ../",
    ),
    "types": (
        (
            checkpoint,
            "load_checkpoint",
            ("if array.dtype not in (np.float32, np.float16):", "if False:"),
        ),
        f"{WEIGHTS}: doubles",
    ),
    "twins": (
        (checkpoint, "_claimed_shapes", ("len(dict(pairs)) != len(pairs)", "False")),
        f"{WEIGHTS}: named twice, the right one last",
    ),
    "links of folders": (
        (checkpoint, "read_manifest", ("if folder.is_symlink():", "if False:")),
        "the folder a link",
    ),
    "names of files": (
        (
            checkpoint,
            "read_manifest",
            ('if not all(map(is_portable_name, content["files"])):', "if False:"),
        ),
        "a file '/etc/passwd' more",
    ),
    "recipes": (
        (
            checkpoint,
            "load_config",
            ('config["recipe"] not in get_args(RecipeName)', "False"),
        ),
        "recipe of control characters",
    ),
    "counts": (
        (checkpoint, "load_config", ('type(about["characters"]) is not int', "False")),
        "characters text",
    ),
    "hashes": (
        (checkpoint, "load_config", ('not _SHA256.fullmatch(about["sha256"])', "False")),
        "sha256 of control characters",
    ),
    "numbers of the trainer": (
        (
            checkpoint,
            "load_training_state",
            ("isinstance(v, int | float) and not 0 <= v < 1 << 63", "False"),
        ),
        "trainer's seconds negative",
    ),
    "the vocabulary's size": (
        (
            checkpoint,
            "load_checkpoint",
            ("if vocabulary.n_ids != network.vocabulary_size:", "if False:"),
        ),
        "more characters",
    ),
}


@pytest.mark.parametrize("protection", NOT_CHECKED)
def test_each_protection_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch, protection: str
) -> None:
    (module, function, without), name = NOT_CHECKED[protection]
    take_out(monkeypatch, module, function, without)
    assert violations(ATTACKS[name], place, call_here)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_the_refusal_of_links_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    take_out(monkeypatch, storage, "is_plain", ("path.lstat()", "path.stat()"))
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)
    assert violations(ATTACKS[f"{name} a link to what it was"], place, call_here)


def test_escaping_is_needed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "printable", lambda text: text)
    found = violations(ATTACKS[f"{WEIGHTS}: named by control characters"], place, call_here)
    assert any("prints" in problem for problem in found)


def test_the_refusal_of_a_linked_lock_is_needed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr("filelock.FileLock", lambda path, **options: opened.append(path))
    link_to_decoy(place.model / ".lock")
    with pytest.raises(OutputError), lock_model(place.model):
        pass
    assert opened == []
    monkeypatch.setattr(models, "is_plain", lambda path: True)
    with pytest.raises(AttributeError), lock_model(place.model):
        pass
    assert opened == [place.model / ".lock"]


def test_the_meter_sees_memory_and_waiting(
    place: Place, meter: Callable[..., list[Outcome]]
) -> None:
    # What a person names is read whole, and waited for: not so what a model names.
    make_sparse(Path("large.txt"), 400_000_000)
    with Path("large.txt").open("r+b") as file:
        file.write(b"\xff")  # no UTF-8: read, and refused
    os.mkfifo("pipe.txt")
    for is_real in (False, True):
        command = [*COMMANDS["generate"], "--seed-file"]
        (outcome,) = meter([[*command, "large.txt"]], is_real=is_real)
        assert outcome.megabytes > 400
        (outcome,) = meter([[*command, "pipe.txt"]], is_real=is_real, seconds=1)
        assert outcome.exit_code == -signal.SIGALRM
        assert judge(outcome, Attack(lambda place: None, CONFIG), "generate")


# --- any bytes, any values ---------------------------------------------------------------

EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Numbers at which sizes, sums and conversions turn over.
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**400, -1, 0, 1]),
    st.floats(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.sampled_from([EVIL, "\ud800", "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def read_all(model: Path) -> list[CharlstmError]:
    """Read a model in every way; what cannot be read must be told in one plain line."""
    errors: list[CharlstmError] = []

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except CharlstmError as error:
            assert error.message.isprintable(), repr(error.message)
            assert len(error.message) < 5_000
            errors.append(error)
            return None

    for info in attempt(lambda: list_checkpoints(model)) or []:
        assert math.isfinite(info.epoch)
        attempt(lambda info=info: load_training_state(info))
        loaded = attempt(lambda info=info: load_checkpoint(info))
        if loaded is not None:
            shapes = weight_shapes(loaded.network)
            assert {name: array.shape for name, array in loaded.weights.items()} == shapes
            assert all(np.isfinite(array).all() for array in loaded.weights.values())
            assert len(loaded.vocabulary) == loaded.network.vocabulary_size
            assert loaded.text_options.clean("a") == "a"
            loaded.vocabulary.encode("".join(loaded.seed_windows))
    attempt(lambda: open_checkpoint(model))
    attempt(lambda: describe_model(model))
    for _, problems in attempt(lambda: verify_model(model)) or []:
        assert all(problem.isprintable() for problem in problems)
    for arguments in (["info", f"./{model}"], ["info", f"./{model}", "--json"]):
        (outcome,) = call_here([arguments])
        assert outcome.exit_code in (0, 1)
        assert "fault of charlstm" not in outcome.stderr, outcome.stderr
        assert "Traceback" not in outcome.stderr, outcome.stderr
        if "--json" not in arguments:
            assert all(c.isprintable() or c == "\n" for c in outcome.stdout + outcome.stderr)
    return errors


@contextlib.contextmanager
def good_again(place: Place) -> Iterator[None]:
    """Put a checkpoint's files back after an example."""
    whole = {name: (place.folder / name).read_bytes() for name in FILES}
    try:
        yield
    finally:
        for name, data in whole.items():
            (place.folder / name).write_bytes(data)


def put(place: Place, name: str, data: bytes) -> None:
    """Write a file, and a manifest that vouches for it; a manifest as it is."""
    if name == MANIFEST:
        (place.folder / name).write_bytes(data)
    else:
        forge(place.folder, name, data)


def test_a_good_model_is_read_in_every_way(place: Place) -> None:
    assert read_all(place.model) == []


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(place: Place, name: str, data: bytes) -> None:
    with good_again(place):
        put(place, name, data)
        assert read_all(place.model)


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(data=st.data())
def test_any_bytes_within_a_file_are_read_or_refused(
    place: Place, name: str, data: st.DataObject
) -> None:
    with good_again(place):
        whole = (place.folder / name).read_bytes()
        start = data.draw(st.integers(0, min(len(whole), 2_000)))
        length = data.draw(st.integers(0, 20))
        put(
            place,
            name,
            whole[:start] + data.draw(st.binary(max_size=20)) + whole[start + length :],
        )
        read_all(place.model)


def ways_into(content: object) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value within."""
    pairs: Any = ()
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content)
    for key, value in pairs:
        yield (key,)
        for way in ways_into(value):
            yield (key, *way)


def change_anywhere(content: dict[str, Any], data: st.DataObject) -> None:
    """Replace, remove or add up to three values, wherever they are."""
    for _ in range(data.draw(st.integers(1, 3))):
        ways = list(ways_into(content))
        if not ways:
            return
        *way, key = data.draw(st.sampled_from(ways))
        inner: Any = content
        for step in way:
            inner = inner[step]
        what = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "remove":
            del inner[key]
        elif what == "add" and isinstance(inner, dict):
            inner[data.draw(st.text(max_size=5))] = data.draw(VALUES)
        else:
            inner[key] = data.draw(VALUES)


@pytest.mark.parametrize("name", [CONFIG, VOCABULARY_JSON, TRAINER, MANIFEST])
@EXAMPLES
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(
    place: Place, name: str, data: st.DataObject
) -> None:
    with good_again(place):
        if name == MANIFEST:
            change_manifest(place.folder, lambda content: change_anywhere(content, data))
        else:
            forge_json(place.folder, name, lambda content: change_anywhere(content, data))
        read_all(place.model)


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "C64", "F8_E5M2", "F4", "X", 7]
        ),
        "shape": st.lists(st.integers(0, 8) | NUMBERS, max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(0, 3_000) | NUMBERS, max_size=3) | VALUES,
    },
)


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
@EXAMPLES
@given(data=st.data())
def test_any_header_of_arrays_is_read_or_refused(
    place: Place, name: str, data: st.DataObject
) -> None:
    with good_again(place):
        header, body = split_arrays((place.folder / name).read_bytes())
        names = st.sampled_from(sorted(header)) | st.text(max_size=8)
        for key in data.draw(st.lists(names, max_size=3)):
            entry = data.draw(ENTRIES)
            is_partial = isinstance(header.get(key), dict) and data.draw(st.booleans())
            header[key] = header[key] | entry if is_partial else entry
        if data.draw(st.booleans()):
            header["__metadata__"] = data.draw(VALUES)
        length = data.draw(st.none() | st.integers(0, 2**64 - 1) | st.integers(0, 2_000))
        body += data.draw(st.just(b"") | st.binary(max_size=9))
        put(place, name, join_arrays(header, body, length=length))
        read_all(place.model)


@EXAMPLES
@given(lines=st.lists(st.binary(max_size=30) | VALUES, max_size=5))
def test_any_log_is_read(place: Place, lines: list[Any]) -> None:
    written = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (place.model / "history.jsonl").write_bytes(b"\n".join(written))
    assert all(isinstance(record, dict) for record in read_log(place.model, "history.jsonl"))
    assert read_all(place.model) == []
    cut_logs(place.model, step=10)
    assert all(record["step"] <= 10 for record in read_log(place.model, "history.jsonl"))
