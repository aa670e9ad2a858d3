"""What a `train` command will do, decided before TensorFlow is imported.

Everything that can be wrong with a request is found here, within a second:
the text, the model's folder, the options, and whether a run can go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from charlstm.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    load_checkpoint,
    load_training_state,
)
from charlstm.config import (
    SEQ_LENGTH,
    NetworkConfig,
    RecipeName,
    TrainingConfig,
    recipe_defaults,
)
from charlstm.corpus import (
    PREPARED_FOLDER,
    Corpus,
    Progress,
    find_sources,
    is_prepared,
    load_corpus,
    prepare_corpus,
    split_corpus,
)
from charlstm.errors import (
    CheckpointError,
    CorpusError,
    InputError,
    ModelExistsError,
    OutputError,
    printable,
)
from charlstm.models import (
    damaged_models,
    find_model,
    holds_model,
    list_checkpoints,
    list_models,
    list_with_problems,
    model_path,
    open_checkpoint,
    refuse_shipped,
)
from charlstm.preparing import Scale
from charlstm.reading import CorpusOptions, difference
from charlstm.sources import Sources, corpus_name
from charlstm.status import SAVE_REQUEST, STATUS
from charlstm.storage import is_portable_name, make_writable_folder, portable_name, shown

SMALL_TEXT = 15_000  # characters to train on
_NETWORK_OPTIONS = ("units", "layers", "seq_length")
# What a resumed run may change; all else would make it another run.
RESUMABLE_OPTIONS = ("epochs", "minutes", "patience")
_BUDGETS = frozenset({"epochs", "minutes"})
_OPTIONS_OF_TEXT = ("lowercase", "encoding", "normalize", "keep_boilerplate", "max_vocab")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What a person asked for.

    Attributes:
        corpus: As typed; None with `resume` to take the model's own.
        model: As typed to `--model`, or None.
        recipe: Typed recipe, or None.
        resume: Go on with the model.
        overwrite: Replace the model.
        start_from: Model whose weights to begin with, as typed, or None.
        typed: Options that were given, by the names of `TrainingConfig`,
            `NetworkConfig` and `CorpusOptions`.
        default_threads: Cores to use when not typed.
    """

    corpus: str | None
    model: str | None = None
    recipe: RecipeName | None = None
    resume: bool = False
    overwrite: bool = False
    start_from: str | None = None
    typed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    default_threads: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What will be done.

    Attributes:
        corpus: The prepared text.
        network: The network's shape.
        config: How it is trained.
        model: The model's folder.
        resume_from: The checkpoint to go on from; None to start.
        newest_step: Of the model's checkpoints when the plan was made.
        start_from: Whose weights to begin with, or None.
        notes: What a person should know, a line each.
    """

    corpus: Corpus
    network: NetworkConfig
    config: TrainingConfig
    model: Path
    resume_from: CheckpointInfo | None
    newest_step: int = 0
    start_from: Checkpoint | None = None
    notes: tuple[str, ...] = ()


def plan_training(request: TrainingRequest, *, progress: Progress | None = None) -> TrainingPlan:
    """Check a request and prepare its text.

    Args:
        request: What was asked for.
        progress: Told how far the preparation is.

    Returns:
        The plan.

    Raises:
        InputError: If something about the request is wrong, or it would write
            to a model that ships.
        ModelExistsError: If the model exists and neither going on nor
            overwriting was asked for.
        CheckpointError: If the checkpoint to go on from is damaged.
        OutputError: If the prepared text cannot be written.
    """
    if request.resume:
        plan = _plan_resume(request, progress)
        if plan is not None:
            return plan
        if request.corpus is None:
            raise _nothing_to_resume(find_model(request.model))  # or it says what there is
    if request.corpus is None:
        raise InputError("there is no text to train on", hint="charlstm train macbeth.txt")
    # Settings and the folder are checked first: they cost nothing.
    recipe = request.recipe or "default"
    choices = _training_config(recipe, request, n_train=1_000_000, seq_length=SEQ_LENGTH)
    source = find_sources([request.corpus])
    model = model_folder(request.model, source)
    check_model_folder(model, overwrite=request.overwrite)
    notes: list[str] = []
    if request.resume and not holds_model(model):
        notes.append(f"{shown(model)} has no checkpoint yet: starting from the beginning")
    start_from = _open_start(request, recipe, notes)

    options = _text_options(request, lowercase=choices.lowercase)
    shape = {name: request.typed[name] for name in _NETWORK_OPTIONS if name in request.typed}
    if start_from is not None:
        source_network = dataclasses.asdict(start_from.network)
        shape = {name: source_network[name] for name in _NETWORK_OPTIONS} | shape
    seq_length = shape.get("seq_length", NetworkConfig(vocabulary_size=2).seq_length)
    val_fraction = choices.val_fraction
    corpus = prepare_text(
        source,
        options,
        typed=request.typed,
        threads=_threads(request),
        seq_length=seq_length,
        val_fraction=val_fraction,
        progress=progress,
    )
    split = split_corpus(
        len(corpus.ids), seq_length=seq_length, val_fraction=val_fraction, name=corpus.name
    )
    config = _training_config(
        recipe, request, n_train=split.train_characters, seq_length=seq_length
    )
    if corpus.options.lowercase != config.lowercase:
        config = dataclasses.replace(config, lowercase=corpus.options.lowercase)
    network = NetworkConfig(
        vocabulary_size=corpus.vocabulary.n_ids,
        input="one_hot" if recipe == "default" else "scaled",
        carries_state=recipe == "default",
        **shape,
    )
    rows = split.train_characters // network.seq_length
    if recipe == "default" and config.batch_size > rows:
        if "batch_size" in request.typed:
            raise InputError(
                f"{split.train_characters:,} characters fill at most {rows} rows of "
                f"{network.seq_length}, not {config.batch_size}",
                hint=f"give --batch-size {rows} or less",
            )
        config = dataclasses.replace(config, batch_size=rows)
    if split.train_characters < SMALL_TEXT and recipe == "default":
        notes.append(
            f"a short text: from fewer than {SMALL_TEXT:,} characters little is learned but "
            "the words by heart"
        )
    if corpus.removed_characters:
        notes.append(corpus.boilerplate_note)
    if corpus.unknown_characters:
        notes.append(corpus.unknown_note)
    notes.extend(corpus.notes)
    return TrainingPlan(
        corpus=corpus,
        network=network,
        config=config,
        model=model,
        resume_from=None,
        start_from=start_from,
        notes=tuple(notes),
    )


def _nothing_to_resume(shipped: Path) -> InputError:
    name = printable(shipped.name)
    return InputError(
        f"{name} ships with charlstm without its training state: it can write, not be resumed",
        hint=f"charlstm train TEXT --from {name} begins with its weights",
    )


def _model_exists(model: Path, *, can_resume: bool = True) -> ModelExistsError:
    goes_on = "--resume goes on with it, " if can_resume else ""
    return ModelExistsError(
        f"the model {shown(model)} exists",
        hint=f"{goes_on}--overwrite replaces it, --model names another",
    )


def check_model_folder(model: Path, *, overwrite: bool, can_resume: bool = True) -> None:
    """Check that a new model can be put somewhere.

    Args:
        model: The folder, which may not exist.
        overwrite: Whether a model that is there may be replaced.
        can_resume: Whether the command could go on with it instead, for the hint.

    Raises:
        InputError: If the folder is of a model that ships, or is something
            else, or has a name that some system refuses.
        ModelExistsError: If there is a model that may not be replaced.
    """
    refuse_shipped(model)
    if holds_model(model) and not overwrite:
        raise _model_exists(model, can_resume=can_resume)
    _refuse_foreign_folder(model)
    _refuse_unportable_name(model)


def check_unchanged(plan: TrainingPlan, *, overwrite: bool) -> None:
    """Check, with the model's lock held, that no other run wrote it since the plan.

    Args:
        plan: Made before the lock was taken.
        overwrite: Whether the model may be replaced anyway.

    Raises:
        ModelExistsError: If there is a model now where there was none.
        InputError: If another run went on with it.
    """
    if plan.resume_from is None:
        if holds_model(plan.model) and not overwrite:
            raise _model_exists(plan.model)
    elif list_checkpoints(plan.model)[-1].step > max(plan.resume_from.step, plan.newest_step):
        raise InputError(f"another run has gone on with {shown(plan.model)}", hint="try again")


def make_tensorboard_folder(root: Path, model: Path) -> Path:
    """Make the folder for a run's events, before minutes are lost to one that cannot be written.

    Args:
        root: What TensorBoard is started with; it compares the folders in it.
        model: The model's folder, whose name the run gets.

    Returns:
        The folder.

    Raises:
        OutputError: If it cannot be written.
    """
    folder = root / model.resolve().name
    try:
        make_writable_folder(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {shown(folder)}: {error.strerror or error}",
            hint="give --tensorboard another folder",
        ) from error
    return folder


def _open_start(
    request: TrainingRequest, recipe: RecipeName, notes: list[str]
) -> Checkpoint | None:
    """Open the model whose weights to begin with, and check that they fit."""
    if request.start_from is None:
        return None
    checkpoint, warnings = open_checkpoint(find_model(request.start_from))
    notes.extend(f"warning: {warning}; using another checkpoint" for warning in warnings)
    if checkpoint.config["recipe"] != recipe:
        raise InputError(
            f"{printable(request.start_from)} is of recipe {checkpoint.config['recipe']}, "
            f"not {recipe}",
            hint=f"--recipe {checkpoint.config['recipe']} goes on with its kind of network",
        )
    for name in ("units", "layers"):
        has = getattr(checkpoint.network, name)
        if request.typed.get(name, has) != has:
            raise InputError(
                f"{printable(request.start_from)} has {name} {has}, not {request.typed[name]}",
                hint=f"leave --{name} out: it comes from the model",
            )
    return checkpoint


def _refuse_unportable_name(model: Path) -> None:
    """Refuse to make a model that could not be moved to another system."""
    if model.exists():
        return
    if not is_portable_name(model.name):
        raise InputError(
            f"'{printable(model.name)}' is no name for a folder on every system",
            hint=f"--model {portable_name(model.name)} is",
        )
    twins = {unicodedata.normalize("NFC", model.name).casefold()}
    with contextlib.suppress(OSError):
        for entry in model.parent.iterdir():
            if unicodedata.normalize("NFC", entry.name).casefold() in twins:
                raise ModelExistsError(
                    f"there is a model {printable(entry.name)}, which some systems cannot tell "
                    f"from {printable(model.name)}",
                    hint="give --model a name that differs in more than capitals",
                )


def model_folder(name: str | None, source: Sources | Path | None) -> Path:
    """Say where the model of a text goes.

    Args:
        name: As given to `--model`; None to name it after the text.
        source: The text or texts, or a prepared folder; None for stdin.

    Returns:
        The folder, which may not exist.
    """
    if name is not None:
        return model_path(name)
    if isinstance(source, Sources):
        return model_path(source.name)
    if source is not None and source.is_dir():
        return model_path(load_corpus(source).name)
    return model_path(corpus_name(source))


def _refuse_foreign_folder(model: Path) -> None:
    if model.exists() and not model.is_dir():
        raise InputError(
            f"{shown(model)} is a file, not a model's folder", hint="give another --model"
        )
    ours = ("history.jsonl", "samples.jsonl", "step-")
    if model.is_dir():
        names = {entry.name for entry in model.iterdir() if not entry.name.startswith(".")}
        names -= {STATUS, SAVE_REQUEST}  # of a run that died before its first checkpoint
        if names and not any(name.startswith(ours) for name in names):
            raise InputError(
                f"{shown(model)} holds other files and no model",
                hint="give --model a new folder",
            )


def _text_options(request: TrainingRequest, *, lowercase: bool) -> CorpusOptions:
    typed = {name: request.typed[name] for name in _OPTIONS_OF_TEXT if name in request.typed}
    return CorpusOptions(**({"lowercase": lowercase} | typed))


def prepare_text(
    source: Sources | Path,
    options: CorpusOptions,
    *,
    seq_length: int,
    val_fraction: float,
    progress: Progress | None,
    typed: Mapping[str, Any] = MappingProxyType({}),
    threads: int = 1,
) -> Corpus:
    """Prepare a text to train on in `prepared/`, or take a folder that is prepared.

    Args:
        source: The text or texts, or a prepared folder.
        options: How the text is read.
        seq_length: Window length.
        val_fraction: Share held out.
        progress: Told how far it is.
        typed: Options that were given, which a prepared folder must have.
        threads: Cores to use.

    Returns:
        The prepared text.

    Raises:
        CorpusError: If the text cannot be used, or was prepared with other options.
        OutputError: If it cannot be written.
    """
    if isinstance(source, Path) and source.is_dir():
        corpus = load_corpus(source)
        for name in _OPTIONS_OF_TEXT:
            has, wants = getattr(corpus.options, name), getattr(options, name)
            is_wanted = name in typed or (name == "lowercase" and wants)
            if is_wanted and has != wants:
                raise CorpusError(
                    f"{shown(source)} was prepared {difference(name, has, wants)}",
                    hint="prepare the text again, or give the text itself",
                )
        return corpus
    return prepare_corpus(
        source,
        options=options,
        output=Path(PREPARED_FOLDER)
        / (source.name if isinstance(source, Sources) else corpus_name(source)),
        keeps_others=True,
        seq_length=seq_length,
        val_fraction=val_fraction,
        scale=Scale(threads=threads),
        progress=progress,
    )


def _threads(request: TrainingRequest) -> int:
    return int(request.typed.get("threads", request.default_threads))


def _training_config(
    recipe: RecipeName, request: TrainingRequest, *, n_train: int, seq_length: int
) -> TrainingConfig:
    fields = {f.name for f in dataclasses.fields(TrainingConfig)}
    typed = {name: value for name, value in request.typed.items() if name in fields}
    defaults = recipe_defaults(
        recipe,
        n_train=n_train,
        epochs=typed.get("epochs"),
        minutes=typed.get("minutes"),
        seq_length=seq_length,
        is_fine_tuning=request.start_from is not None,
    )
    if typed.get("dropout") == 0:  # who wants none means both
        typed.setdefault("recurrent_dropout", 0.0)
    if recipe == "article" and typed.get("recurrent_dropout"):
        raise InputError("recipe article has no recurrent dropout", hint="use recipe default")
    return dataclasses.replace(defaults, **({"threads": request.default_threads} | typed))


# --- going on -----------------------------------------------------------------


def _plan_resume(request: TrainingRequest, progress: Progress | None) -> TrainingPlan | None:
    """Plan to go on from the last checkpoint; None if there is no checkpoint yet."""
    source: Sources | Path | None = None
    is_missing = False
    if request.corpus is not None:
        try:
            source = find_sources([request.corpus])
        except CorpusError:
            is_missing = True  # it may have moved; the stored ids serve
    model = _resumed_model(request, source)
    if model is None:
        return None
    info, notes = _last_good(model)
    checkpoint = load_checkpoint(info)
    stored, about = checkpoint.config["training"], checkpoint.config["corpus"]
    config = TrainingConfig(**{**stored, "join_documents": checkpoint.joins_documents})
    network = checkpoint.network
    _refuse_changes(request, config, network, checkpoint.text_options)
    allowed = {k: v for k, v in request.typed.items() if k in RESUMABLE_OPTIONS}
    if len(_BUDGETS & allowed.keys()) == 1:  # one alone takes the place of both
        allowed = dict.fromkeys(_BUDGETS) | allowed
    config = dataclasses.replace(config, **allowed)
    if isinstance(source, Sources) and (request.corpus != "-" or not _is_stored(about)):
        corpus = prepare_text(
            source,
            checkpoint.text_options,
            threads=_threads(request),
            seq_length=network.seq_length,
            val_fraction=config.val_fraction,
            progress=progress,
        )
    else:
        folder = source if isinstance(source, Path) else _stored_path(about)
        if not is_prepared(folder):
            raise CorpusError(
                f"the prepared text {shown(folder)} of this model is gone",
                hint="give the text: charlstm train TEXT --resume --model NAME",
            )
        corpus = load_corpus(folder)
        if is_missing:
            notes.append(f"{printable(str(request.corpus))} is not there: using the stored ids")
    if corpus.sha256 != about["sha256"]:
        raise InputError(
            f"the text is not the one that {shown(model)} was trained on "
            f"(sha256 {corpus.sha256[:12]}…, not {about['sha256'][:12]}…)",
            hint="give the same text, or train another model with --model",
        )
    if why := _read_otherwise(corpus, checkpoint):
        raise InputError(
            f"{shown(corpus.path)} {why}",
            hint="give the text itself: charlstm train TEXT --resume --model NAME",
        )
    return TrainingPlan(
        corpus=corpus,
        network=network,
        config=config,
        model=model,
        resume_from=info,
        newest_step=list_checkpoints(model)[-1].step,
        notes=(*notes, f"going on from step {info.step:,} (epoch {info.epoch:.2f})"),
    )


def _read_otherwise(corpus: Corpus, checkpoint: Checkpoint) -> str | None:
    """Say how the same file became another text than the model's, if it did."""
    model, n_chars = shown(checkpoint.model), checkpoint.config["corpus"]["characters"]
    if differences := corpus.options.differences(checkpoint.text_options):
        return f"was prepared {differences[0]} as for {model}"
    if corpus.vocabulary != checkpoint.vocabulary:
        return f"has not the characters that {model} knows"
    if len(corpus.ids) != n_chars:
        return (
            f"has {len(corpus.ids):,} characters, where {model} was trained on {n_chars:,} "
            "of the same text"
        )
    return None


def _stored_path(about: Mapping[str, Any]) -> Path:
    """Return where the prepared text of a model was, as it remembers it."""
    return Path(about.get("path") or Path(PREPARED_FOLDER) / about["name"])


def _is_stored(about: Mapping[str, Any]) -> bool:
    """Tell whether the ids that a model was trained on are where they were."""
    try:
        return load_corpus(_stored_path(about)).sha256 == str(about["sha256"])
    except CorpusError:
        return False


def _resumed_model(request: TrainingRequest, source: Sources | Path | None) -> Path | None:
    if request.model is not None:
        model = model_path(request.model)
    elif request.corpus is None:
        models = list_models() or damaged_models()
        if not models:
            raise InputError("there is no model to go on with", hint="charlstm train macbeth.txt")
        model = models[0]
    elif source is None:
        model = model_path(corpus_name(Path(request.corpus)))
    else:
        model = model_folder(request.model, source)
    return model if holds_model(model) else None


def _last_good(model: Path) -> tuple[CheckpointInfo, list[str]]:
    listed, unlisted = list_with_problems(model)
    if listed and not any(info.has_state for info in listed):
        load_training_state(listed[-1])  # says so, and what else can be done with it
    notes = [f"warning: {problem}; passed over" for problem in unlisted]
    for info in reversed(listed):
        try:
            load_checkpoint(info)
            load_training_state(info)
        except CheckpointError as error:
            notes.append(f"warning: {error.message}; trying the checkpoint before it")
        else:
            return info, notes
    why = notes[0].removeprefix("warning: ") if notes else "none has a good manifest"
    raise CheckpointError(
        f"no checkpoint of {shown(model)} can be read: {why}",
        hint="--overwrite begins anew",
    )


def _refuse_changes(
    request: TrainingRequest,
    config: TrainingConfig,
    network: NetworkConfig,
    options: CorpusOptions,
) -> None:
    stored: dict[str, Any] = (
        dataclasses.asdict(options) | dataclasses.asdict(config) | dataclasses.asdict(network)
    )
    wanted = dict(request.typed)
    if "encoding" in wanted:
        wanted["encoding"] = CorpusOptions(encoding=wanted["encoding"]).encoding
    if request.recipe is not None:
        wanted["recipe"] = request.recipe
    for name, value in wanted.items():
        if name not in RESUMABLE_OPTIONS and stored.get(name, value) != value:
            differs = f"--{name.replace('_', '-')} {value} differs from the model's {stored[name]}"
            if any(v is None or isinstance(v, bool) for v in (value, stored[name])):
                differs = f"the model was trained {difference(name, stored[name], value)}"
            raise InputError(
                differs,
                hint="with --resume only "
                + ", ".join(f"--{n}" for n in RESUMABLE_OPTIONS)
                + " may change; --model NAME trains another",
            )
