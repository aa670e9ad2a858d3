"""charlstm beside the article it began as: training, writing, preparing.

    python benchmarks/article.py                 # the table in README.md
    python benchmarks/article.py --quick         # a smoke run, for CI

Each figure comes from a process of its own, started alternately for the two
sides, so that neither has a quiet machine to itself. The article's code is
`article_code.py`. This module imports neither NumPy nor Keras: a child's peak
memory includes what its parent held when it was started.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from charlstm import __version__
from charlstm.backend import available_cores

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "corpora" / "macbeth.txt"
RESULTS = HERE / "results" / "article.json"
ARTICLE_CODE = [sys.executable, str(HERE / "article_code.py")]
CHARLSTM_TRAIN = [sys.executable, str(HERE / "charlstm_train.py")]
CHARLSTM = [sys.executable, "-m", "charlstm"]
SEQ_LENGTH = 50
RANDOM_SEED = 0

UNFAIR = """\
What is unfair, and to whom:
- To the article: its recipe learns from one label for each window of 50 characters that it reads,
  charlstm's default recipe from all 50 positions. "Learned from" and "an epoch" therefore compare
  recipes, not code: an epoch is 63 optimizer steps here and 3,397 there, and neither side's loss
  is measured. "Read by the network" counts what passes through the LSTM layers, and the rows
  `--recipe article` are the same work on both sides.
- To the article: its script is timed as one would type it, with no thought for speed, and its
  processes pay for importing Keras, which charlstm does only to train. The rows "without imports"
  leave that out for the article and not for charlstm.
- To charlstm: it keeps capitals (a larger vocabulary), clips gradients, draws characters instead
  of taking the likeliest, checks and hashes the text, and writes what it prepares to disk.
- To charlstm: the article's `fit` is timed without its progress bar and its checkpoints, and its
  generator skips making all windows again to pick one.
- To both: evaluation, samples and checkpoints are left out of the training rows, and few batches
  stand for an epoch."""

CLOCK = """\
What the clock includes:
- training: optimizer steps after the warm-up, batches and all, by a clock inside the process
  (the article's: batches in the middle of one `model.fit` over all windows; charlstm's:
  `StreamTrainer.train_step`). Seconds an epoch are extrapolated: characters (article: windows) of
  the whole text, none held out, divided by the speed.
- first step done, first character: from starting the process until its parent sees the line or
  the character on the pipe; imports, reading the text and tracing included.
- writing: from the first to the last character on the pipe, one stream, from a random window.
- preparing: from starting the process until it has ended; peak memory (maximum resident set) of
  that one process. "Without imports" begins after the article's imports, and counts only the
  memory above their peak."""


# --- one process ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Child:
    """A process that has ended.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: User and system time.
        peak_mb: Largest resident set, 10^6 bytes.
        arrivals: What it wrote to stdout, with the seconds since its start.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    arrivals: list[tuple[float, bytes]]

    @property
    def text(self) -> str:
        """All of its stdout."""
        return b"".join(data for _, data in self.arrivals).decode()

    @property
    def result(self) -> dict[str, float]:
        """The JSON in its last line."""
        numbers: dict[str, float] = json.loads(self.text.splitlines()[-1])
        return numbers


def run(command: Sequence[str], *, cwd: Path) -> Child:
    """Run a command and watch its stdout, time and memory.

    Args:
        command: Program and arguments.
        cwd: Folder to run it in.

    Returns:
        What was seen.

    Raises:
        SystemExit: If it fails; shows its stderr.
    """
    # Bytecode is cached, and GPUs are hidden, for both sides alike.
    drop = {"PYTHONDONTWRITEBYTECODE"}
    environment = {k: v for k, v in os.environ.items() if k not in drop} | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    arrivals: list[tuple[float, bytes]] = []
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        assert child.stdout is not None
        while data := os.read(child.stdout.fileno(), 1 << 16):
            arrivals.append((time.perf_counter() - started, data))
        # The usage of this one child; RUSAGE_CHILDREN is the worst of all so far.
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.stdout.close()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read().decode(errors='replace')}")
    return Child(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
        arrivals=arrivals,
    )


# --- what is measured -----------------------------------------------------------

Numbers = dict[str, float]
Measure = Callable[[], Numbers]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is run.

    Attributes:
        repeats: Processes for each figure.
        warm_up: Training steps that are not timed.
        charlstm_steps: Timed steps of recipe default.
        article_steps: Timed batches of the article and of recipe article.
        charlstm_length: Characters that recipe default writes.
        recipe_article_length: Characters that recipe article writes.
        article_length: Characters that the article's code writes.
        factor: Times that the longer text repeats Macbeth.
    """

    repeats: int
    warm_up: int = 5
    charlstm_steps: int = 63
    article_steps: int = 60
    charlstm_length: int = 5_000
    recipe_article_length: int = 500
    article_length: int = 60
    factor: int = 10


def training(child: Child, *, characters_read: int) -> Numbers:
    """Turn a training process into speeds.

    Args:
        child: Its first line came with its first step; its last is JSON.
        characters_read: Time steps of the network for each character learned from.

    Returns:
        Speeds, and the sizes that the process told.
    """
    result = child.result
    speed = result["predictions"] / result["seconds"]
    return result | {
        "chars_per_second": speed,
        "read_per_second": speed * characters_read,
        "epoch_seconds": result["predictions_per_epoch"] / speed,
        "first_step_seconds": child.arrivals[0][0],
        "cpu_seconds": child.cpu_seconds,
    }


def writing(child: Child) -> Numbers:
    """Turn a writing process into the wait for its first character and its speed.

    Args:
        child: A process whose stdout is text alone.

    Returns:
        The numbers.
    """
    first, first_data = child.arrivals[0]
    last, _ = child.arrivals[-1]
    n_chars = len(child.text) - len(first_data.decode(errors="ignore"))
    return {
        "first_character_seconds": first,
        "chars_per_second": n_chars / (last - first),
        "characters": len(child.text),
        "cpu_seconds": child.cpu_seconds,
    }


def preparing(child: Child) -> Numbers:
    """Turn a preparing process into time and memory.

    Args:
        child: Its last line is JSON; the article's tells what followed its imports.

    Returns:
        The numbers.
    """
    result = child.result
    numbers = {
        "seconds": child.seconds,
        "peak_mb": child.peak_mb,
        "work_seconds": child.seconds,
        "work_mb": child.peak_mb,
        "cpu_seconds": child.cpu_seconds,
        "windows": result["windows"],
    }
    if "mb_at_imports" in result:
        numbers["work_seconds"] = result["seconds"]
        numbers["work_mb"] = child.peak_mb - result["mb_at_imports"]
    return numbers


def training_measures(folder: Path, effort: Effort) -> dict[str, Measure]:
    """Return the three sides of the training rows."""
    warm_up = ["--warm-up", str(effort.warm_up)]

    def charlstm(recipe: str, steps: int) -> Child:
        options = ["--recipe", recipe, "--steps", str(steps)]
        return run([*CHARLSTM_TRAIN, str(CORPUS), *warm_up, *options], cwd=folder)

    def article() -> Child:
        options = ["--batches", str(effort.article_steps), "--save", "article.keras"]
        return run([*ARTICLE_CODE, "train", str(CORPUS), *warm_up, *options], cwd=folder)

    return {
        "charlstm": lambda: training(charlstm("default", effort.charlstm_steps), characters_read=1),
        "recipe article": lambda: training(
            charlstm("article", effort.article_steps), characters_read=SEQ_LENGTH
        ),
        "article": lambda: training(article(), characters_read=SEQ_LENGTH),
    }


def train_models(folder: Path, *, quick: bool) -> Numbers:
    """Train two small models to write with, by the command itself.

    Args:
        folder: Where `checkpoints/` goes; holds the article's model already.
        quick: Whether to train the least that makes a model.

    Returns:
        The speed that the command tells of itself, to compare.
    """
    options = ["--random-seed", str(RANDOM_SEED), "--sample-every", "0", "--quiet", "--json"]
    command = [*CHARLSTM, "train", str(CORPUS), *options]
    default = run([*command, "--epochs", "0.05" if quick else "0.2"], cwd=folder)
    article = ["--recipe", "article", "--model", "article", "--epochs", "0.001"]
    run([*command, *article], cwd=folder)
    return {"default_chars_per_second": default.result["chars_per_second"]}


def writing_measures(folder: Path, effort: Effort) -> dict[str, Measure]:
    """Return the three sides of the writing rows."""

    def charlstm(model: str, length: int) -> Numbers:
        options = ["--model", model, "-n", str(length), "--random-seed", str(RANDOM_SEED)]
        return writing(run([*CHARLSTM, "generate", "--no-echo", *options], cwd=folder))

    def article() -> Numbers:
        options = ["--model", "article.keras", "--length", str(effort.article_length)]
        return writing(run([*ARTICLE_CODE, "generate", str(CORPUS), *options], cwd=folder))

    return {
        "charlstm": lambda: charlstm("macbeth", effort.charlstm_length),
        "recipe article": lambda: charlstm("article", effort.recipe_article_length),
        "article": article,
    }


def preparing_measures(text: Path) -> dict[str, Measure]:
    """Return the two sides of the preparing rows for one text."""

    def charlstm() -> Numbers:
        # A new folder each time: a prepared text is not prepared again.
        with tempfile.TemporaryDirectory() as folder:
            command = [*CHARLSTM, "prepare", str(text), "--json"]
            return preparing(run(command, cwd=Path(folder)))

    def article() -> Numbers:
        return preparing(run([*ARTICLE_CODE, "prepare", str(text)], cwd=text.parent))

    return {"charlstm": charlstm, "article": article}


def alternate(name: str, measures: Mapping[str, Measure], repeats: int) -> dict[str, list[Numbers]]:
    """Measure all sides in turn, every other round backwards.

    Args:
        name: What is measured, for the note on stderr.
        measures: The sides.
        repeats: Rounds.

    Returns:
        The numbers of each round, by side.
    """
    numbers: dict[str, list[Numbers]] = {side: [] for side in measures}
    for n in range(repeats):
        for side in list(measures)[:: 1 if n % 2 == 0 else -1]:
            print(f"{name} {n + 1}/{repeats}: {side}", file=sys.stderr, flush=True)
            numbers[side].append(measures[side]())
    return numbers


def measure_all(effort: Effort, *, quick: bool) -> dict[str, Any]:
    """Measure everything.

    Args:
        effort: How much to run.
        quick: Whether to do without discarded first runs.

    Returns:
        The numbers of each round, by experiment and side.
    """
    experiments: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        longer = folder / "longer.txt"
        longer.write_text(CORPUS.read_text(encoding="utf-8") * effort.factor, encoding="utf-8")
        planned: list[tuple[str, Callable[[], dict[str, Measure]]]] = [
            ("training", lambda: training_measures(folder, effort)),
            ("writing", lambda: writing_measures(folder, effort)),
            ("preparing", lambda: preparing_measures(CORPUS)),
            ("preparing longer", lambda: preparing_measures(longer)),
        ]
        for experiment, measures in planned:
            if experiment == "writing":
                experiments["command"] = train_models(folder, quick=quick)
            if not quick:
                alternate(f"{experiment}, discarded", measures(), 1)
            experiments[experiment] = alternate(experiment, measures(), effort.repeats)
    return experiments


# --- the table ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        title: What it says; {factor} is filled in.
        experiment: Where its numbers are.
        number: Which of them.
        side: Whose numbers stand beside the article's.
        better: Whether more or less is better.
    """

    title: str
    experiment: str
    number: str
    better: Literal["more", "less"]
    side: str = "charlstm"


ROWS = (
    Row(
        title="training: characters learned from per second",
        experiment="training",
        number="chars_per_second",
        better="more",
    ),
    Row(
        title="training: seconds an epoch of Macbeth (extrapolated)",
        experiment="training",
        number="epoch_seconds",
        better="less",
    ),
    Row(
        title="training: characters read by the network per second",
        experiment="training",
        number="read_per_second",
        better="more",
    ),
    Row(
        title="training: same work, `--recipe article`, windows per second",
        experiment="training",
        number="chars_per_second",
        side="recipe article",
        better="more",
    ),
    Row(
        title="training: seconds from process start to the first step done",
        experiment="training",
        number="first_step_seconds",
        better="less",
    ),
    Row(
        title="writing: characters per second, one stream",
        experiment="writing",
        number="chars_per_second",
        better="more",
    ),
    Row(
        title="writing: same work, `--recipe article`, characters per second",
        experiment="writing",
        number="chars_per_second",
        side="recipe article",
        better="more",
    ),
    Row(
        title="writing: seconds from process start to the first character",
        experiment="writing",
        number="first_character_seconds",
        better="less",
    ),
    Row(
        title="preparing Macbeth: seconds",
        experiment="preparing",
        number="seconds",
        better="less",
    ),
    Row(
        title="preparing Macbeth: seconds, article without imports",
        experiment="preparing",
        number="work_seconds",
        better="less",
    ),
    Row(
        title="preparing Macbeth: peak MB",
        experiment="preparing",
        number="peak_mb",
        better="less",
    ),
    Row(
        title="preparing Macbeth: peak MB, article without imports",
        experiment="preparing",
        number="work_mb",
        better="less",
    ),
    Row(
        title="preparing {factor} times Macbeth: seconds",
        experiment="preparing longer",
        number="seconds",
        better="less",
    ),
    Row(
        title="preparing {factor} times Macbeth: seconds, article without imports",
        experiment="preparing longer",
        number="work_seconds",
        better="less",
    ),
    Row(
        title="preparing {factor} times Macbeth: peak MB",
        experiment="preparing longer",
        number="peak_mb",
        better="less",
    ),
    Row(
        title="preparing {factor} times Macbeth: peak MB, article without imports",
        experiment="preparing longer",
        number="work_mb",
        better="less",
    ),
)


def make_table(experiments: Mapping[str, Any], *, factor: int) -> str:
    """Put the numbers into a Markdown table.

    Args:
        experiments: As `measure_all` gives them.
        factor: Times that the longer text repeats Macbeth.

    Returns:
        The table; a ratio says how many times better charlstm is.
    """
    lines = ["| | charlstm | article | ratio |", "|---|---:|---:|---:|"]
    for row in ROWS:
        sides = experiments[row.experiment]
        ours = [numbers[row.number] for numbers in sides[row.side]]
        theirs = [numbers[row.number] for numbers in sides["article"]]
        # Within a round, so that what else the machine does meets both sides.
        pairs = zip(ours, theirs, strict=True)
        ratios = [a / b if row.better == "more" else b / a for a, b in pairs]
        title = row.title.format(factor=factor)
        lines.append(f"| {title} | {spread(ours)} | {spread(theirs)} | {spread(ratios)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Write median [smallest-largest]."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{short(middle)} [{short(low)}-{short(high)}]"


def short(value: float) -> str:
    """Write a number with three digits, or as a whole number."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}"


# --- the circumstances ----------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """Tell the hardware, without names that belong to this one machine."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:  # not Linux
        fields = {"model name": platform.processor() or platform.machine()}
    flags = set(fields.get("flags", "").split())
    cpu = fields.get("model name", platform.machine())
    if "cpu family" in fields and "model" in fields:
        cpu += f" (family {fields['cpu family']}, model {fields['model']})"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": available_cores(),
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "memory_gb": round(memory / 1e9),
        "system": platform.system(),
    }


def cpu_times() -> tuple[float, float, float] | None:
    """Read what the cores have done since the machine started.

    Returns:
        Seconds of all cores in all, those not idle, and those of this process
        and its ended children; None where /proc/stat does not tell.
    """
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[1:9]]
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4], sum(os.times()[:4])


def share_of_others(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None
) -> float | None:
    """Tell how much of the machine's cores other work took meanwhile.

    Args:
        before: `cpu_times` at the start.
        after: `cpu_times` at the end.

    Returns:
        A share of all cores, in [0, 1], or None if unknown.
    """
    if before is None or after is None:
        return None
    total, busy, own = (late - early for early, late in zip(before, after, strict=True))
    return max(0.0, busy - own) / total


def describe_versions() -> dict[str, str]:
    """Tell the versions of everything that takes part."""
    versions = {"python": platform.python_version()}
    for package in ("tensorflow", "keras", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = importlib.metadata.version(f"{package}-cpu")
    return versions | {"charlstm": __version__, "commit": commit()}


def commit() -> str:
    """Return the commit that is measured, marked if the package differs from it."""
    try:
        head = git("rev-parse", "--short=12", "HEAD").strip()
        return f"{head} with uncommitted changes" if git("status", "-s", "charlstm") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    """Ask git about this checkout."""
    command = ["git", "--no-optional-locks", "-C", str(HERE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def describe_work(experiments: Mapping[str, Any], effort: Effort) -> dict[str, Any]:
    """Tell what was trained, from what the processes said of themselves."""
    ours, theirs = (experiments["training"][side][0] for side in ("charlstm", "article"))
    return {
        "corpus": "corpora/macbeth.txt",
        "characters": int(ours["predictions_per_epoch"]),
        "windows": int(theirs["predictions_per_epoch"]),
        "window": SEQ_LENGTH,
        "dtype": "float32",
        "random_seed": RANDOM_SEED,
        "threads": int(ours["threads"]),
        **{
            f"{name} {side}": int(numbers[name])
            for side, numbers in (("charlstm", ours), ("article", theirs))
            for name in ("batch_size", "vocabulary_size", "parameters", "steps")
        },
        **{k: v for k, v in dataclasses.asdict(effort).items() if not k.endswith("_steps")},
    }


def describe(content: Mapping[str, Any]) -> str:
    """Write the circumstances as a list."""
    machine, versions, work = content["machine"], content["versions"], content["work"]
    flags = ", ".join(name for name in ("avx2", "avx512") if machine[name]) or "no AVX2 known"
    others = content["share_of_others"]
    shared = "an unknown share" if others is None else f"{others:.0%}"

    def both(name: str, unit: str = "") -> str:
        ours, theirs = work[f"{name} charlstm"], work[f"{name} article"]
        return f"{ours:,}{unit} (article: {theirs:,}{unit})"

    return "\n".join(
        f"- {line}"
        for line in (
            f"machine: {machine['cpu']}, {machine['cores']} cores usable, {flags}, "
            f"{machine['memory_gb']} GB, {machine['system']}; GPUs hidden; "
            f"other programs took {shared} of all cores during the run",
            f"date: {content['date']}",
            "versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()),
            f"threads: TensorFlow on {work['threads']} cores (article: its default, all cores); "
            "BLAS 1 while charlstm writes, its default elsewhere",
            f"corpus: {work['corpus']}, {work['characters']:,} characters, {work['windows']:,} "
            f"windows of {work['window']} for both; the longer text is Macbeth repeated "
            f"{work['factor']} times",
            f"batch {both('batch_size')}; vocabulary {both('vocabulary_size')}; "
            f"parameters {both('parameters')}; {work['dtype']}; random seed {work['random_seed']}",
            f"timed: {both('steps')} training steps after {work['warm_up']} of warm-up; "
            f"{work['charlstm_length']:,} characters written (article: "
            f"{work['article_length']:,}); processes for each figure: "
            f"{work['repeats']}; median [smallest-largest]",
            "ratio: how many times better charlstm is, taken within each round; below 1 the article"
            " is better",
        )
    )


def main() -> None:
    """Measure, print the table, and write the raw numbers."""
    parser = argparse.ArgumentParser(description="charlstm beside the article's own code.")
    parser.add_argument("--repeats", type=int, default=5, help="processes for each figure")
    parser.add_argument("--quick", action="store_true", help="a smoke run: once, and little of it")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"JSON file for the raw numbers; without --quick results/{RESULTS.name}",
    )
    args = parser.parse_args()
    effort = Effort(repeats=max(1, args.repeats))
    if args.quick:
        effort = Effort(
            repeats=1,
            warm_up=2,
            charlstm_steps=10,
            article_steps=10,
            charlstm_length=2_000,
            recipe_article_length=50,
            article_length=10,
            factor=2,
        )
    print(f"{UNFAIR}\n\n{CLOCK}\n", flush=True)
    before = cpu_times()
    experiments = measure_all(effort, quick=args.quick)
    others = share_of_others(before, cpu_times())
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "share_of_others": others,
        "work": describe_work(experiments, effort),
        "experiments": experiments,
    }
    print(f"{describe(content)}\n\n{make_table(experiments, factor=effort.factor)}")
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
