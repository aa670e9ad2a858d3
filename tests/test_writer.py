"""Writing from Python: what `load` finds, what a `Writer` writes, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    make_config,
    make_network,
    naive_text,
    random_weights,
    save,
)

import charlstm
from charlstm import Writer, load, mix, models, writer
from charlstm.engine import LSTMStep
from charlstm.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    ModelNotFoundError,
    SeedTextError,
)
from charlstm.generation import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    Voice,
    pick_seed_window,
    write_texts,
)
from charlstm.sampling import SamplingConfig
from charlstm.scoring import score_ids
from charlstm.stopping import StopRules
from charlstm.vocabulary import Vocabulary
from charlstm.writer import make_random_seeds

TALE = Path("checkpoints/tale")


@pytest.fixture(autouse=True)
def nothing_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and one where models that ship would be."""
    shipped = tmp_path / "package" / "shipped"
    monkeypatch.setattr(models, "shipped_folder", lambda: shipped)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return shipped


@pytest.fixture
def tale() -> Writer:
    """The model `tale`, whose characters are well mixed also by argmax."""
    save_model(TALE, random_seed=3)
    return load()


def save_model(
    folder: Path,
    step: int = 40,
    *,
    random_seed: int = 0,
    characters: str = CHARACTERS,
    network: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    shape = make_network(vocabulary_size=len(characters), **(network or {}))
    windows = ["".join(characters[n % len(characters)] for n in range(k, k + 8)) for k in range(5)]
    save(
        folder,
        step,
        network=shape,
        weights=random_weights(shape, random_seed),
        vocabulary=Vocabulary(characters),
        config=make_config(shape, **({"seed_windows": windows} | (config or {}))),
        **changes,
    )


def damage(step_folder: Path) -> None:
    path = step_folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


# --- load -----------------------------------------------------------------------


def test_a_name_is_that_of_a_model_in_checkpoints() -> None:
    save_model(TALE, random_seed=1, now=5.0)
    save_model(Path("checkpoints/saga"), random_seed=2, now=4.0)
    assert load("saga").name == "saga"
    assert load("saga").checkpoint.model == Path("checkpoints/saga").resolve()
    np.testing.assert_array_equal(
        load("saga").checkpoint.weights["dense/bias"],
        random_weights(make_network(), 2)["dense/bias"],
    )


def test_without_a_name_it_is_the_newest() -> None:
    save_model(TALE, now=5.0)
    save_model(Path("checkpoints/saga"), now=7.0)
    save_model(Path("checkpoints/ode"), now=6.0)
    assert load().name == "saga"


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    save_model(TALE)
    save_model(tmp_path / "elsewhere" / "saga", random_seed=2)
    for path in (str(tmp_path / "elsewhere" / "saga"), "../elsewhere/saga"):
        assert load(path).checkpoint.model == tmp_path.resolve() / "elsewhere" / "saga"


def test_a_model_that_ships_serves_where_there_is_no_other(nothing_ships: Path) -> None:
    save_model(nothing_ships / "macbeth")
    assert load().checkpoint.model == (nothing_ships / "macbeth").resolve()
    save_model(TALE)
    assert load().name == "tale"
    assert load("macbeth").name == "macbeth"


def test_a_model_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelNotFoundError, match="there is no model in checkpoints/"):
        load()
    save_model(TALE)
    with pytest.raises(ModelNotFoundError, match="there is no model saga") as caught:
        load("saga")
    assert caught.value.hint == "models here: tale"


def test_a_checkpoint_may_be_chosen() -> None:
    for step, val_loss in ((8, 2.0), (16, 1.0), (24, 1.5)):
        save_model(TALE, step, val_loss=val_loss)
    steps = {which: load("tale", checkpoint=which).checkpoint.info.step for which in ("best", "24")}
    assert steps == {"best": 16, "24": 24}
    assert load(checkpoint="last").checkpoint.info.step == 24
    assert load().checkpoint.info.step == 16
    with pytest.raises(InputError, match="has no checkpoint 32"):
        load(checkpoint="32")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning() -> None:
    save_model(TALE, 8, val_loss=2.0)
    save_model(TALE, 16, val_loss=1.0)
    damage(TALE / "step-00000016")
    with pytest.warns(UserWarning, match="using step 8 instead") as caught:
        loaded = load("tale")
    (warning,) = caught
    assert "step-00000016" in str(warning.message)
    assert warning.filename == __file__
    assert loaded.checkpoint.info.step == 8
    with pytest.warns(UserWarning, match="using step 8 instead"):
        assert mix({"tale": 1.0}).checkpoint.info.step == 8
    # Asked for by its number it has no stand-in.
    with pytest.raises(CheckpointError):
        load("tale", checkpoint="16")


def test_nothing_but_damaged_checkpoints_is_an_error() -> None:
    save_model(TALE)
    damage(TALE / "step-00000040")
    with pytest.raises(CheckpointError):
        load("tale")


PLAIN = """
import sys
from charlstm import load
model = load("tale")
text = model.generate("ab", 5, temperature=0)
nats = model.score("abcdé").nats_per_char
print(repr(text), nats > 0, [m for m in ("tensorflow", "keras", "click") if m in sys.modules])
"""


def test_writing_and_scoring_do_without_tensorflow(tale: Writer) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PLAIN],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout == f"{tale.generate('ab', 5, temperature=0)!r} True []\n"


@pytest.mark.parametrize("module", ["engine", "writer", "conversation", "stopping", "copying"])
def test_the_plain_layer_is_plain(module: str) -> None:
    code = f"import sys, charlstm.{module}; assert not {{'tensorflow', 'click'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_numpy_waits_until_something_is_loaded() -> None:
    code = "import sys, charlstm; assert 'numpy' not in sys.modules; charlstm.load; import numpy"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_package_has_what_it_names_and_nothing_else() -> None:
    for name in charlstm.__all__:
        assert getattr(charlstm, name) is not None
    assert (charlstm.load, charlstm.Writer) == (writer.load, writer.Writer)
    with pytest.raises(AttributeError, match="module 'charlstm' has no attribute 'lode'"):
        charlstm.lode  # noqa: B018


@pytest.mark.parametrize("module", [charlstm, writer])
def test_the_example_does_what_it_says(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in module.__doc__.splitlines() if line.startswith("    ")]
    assert lines[0] == "    from charlstm import load"
    save_model(Path("checkpoints/macbeth"), characters="\n .abcehmt")
    exec(textwrap.dedent("\n".join(lines)), {})
    printed = capsys.readouterr().out
    assert len(printed) == 200 + 1
    assert set(printed) <= set("\n .abcehmt")


# --- generate and stream -----------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
def test_a_text_goes_on_from_the_seed_and_does_not_repeat_it(carries_state: bool) -> None:
    save_model(TALE, random_seed=3, network={"carries_state": carries_state})
    network = make_network(carries_state=carries_state)
    expected = naive_text(network, random_weights(network, 3), "é\nca", 20)
    assert load().generate("é\nca", 20, temperature=0) == expected
    if not carries_state:
        # The article's network does so by itself.
        assert load().generate("é\nca", 20) == expected


def test_500_characters_are_written_by_default(tale: Writer) -> None:
    assert len(tale.generate("ab")) == 500
    assert tale.generate("ab", 0) == ""
    assert "".join(tale.stream("ab", 0)) == ""


def test_a_random_seed_fixes_the_text(tale: Writer) -> None:
    texts = [tale.generate("ab", 60, random_seed=n, temperature=1) for n in (0, 1, 0, 1)]
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]
    # Without one each text is another.
    free = {tale.generate("ab", 60, temperature=1) for _ in range(3)}
    assert len(free) == 3


def test_it_writes_as_the_loop_does(tale: Writer) -> None:
    config = SamplingConfig(temperature=DEFAULT_TEMPERATURE)
    rules = StopRules(length=50, stops=("ab", "\né"))
    pieces = write_texts(tale.voice, ["cab"], random_seeds=[7], sampling=config, rules=rules)
    expected = "".join(piece.text for piece in pieces)
    assert tale.generate("cab", 50, random_seed=7, stop=["ab", "\né"]) == expected


def test_settings_reach_the_sampler(tale: Writer) -> None:
    greedy = tale.generate("ab", 30, temperature=0)
    assert tale.generate("ab", 30, top_k=1) == greedy
    assert tale.generate("ab", 30, temperature=5.0, top_p=1e-6) == greedy
    assert tale.generate("ab", 30, temperature=0, beams=1) == greedy
    assert tale.generate("ab", 30, temperature=2.0, random_seed=1) != greedy


def test_what_ends_a_text_reaches_the_loop(tale: Writer) -> None:
    way: dict[str, Any] = {"random_seed": 4, "temperature": 1}
    whole = tale.generate("ab", 200, **way)
    stop = whole[50:53]
    assert tale.generate("ab", 200, stop=[stop, "éééé\n"], **way) == whole[: whole.index(stop)]
    # A text is one stop text, not a stop text for each of its characters.
    assert tale.generate("ab", 200, stop=stop, **way) == whole[: whole.index(stop)]
    # Cleaned as the model's text was.
    by_feed = tale.generate("ab", 200, stop="\n", **way)
    assert tale.generate("ab", 200, stop="\r\n", **way) == by_feed
    assert "\n" not in by_feed
    lines = whole.splitlines(keepends=True)
    assert len(lines) > 3
    assert tale.generate("ab", 200, lines=3, **way) == "".join(lines[:3])


def test_a_sentence_is_written_to_its_end() -> None:
    save_model(TALE, characters="\n .abcd")
    way: dict[str, Any] = {"random_seed": 4, "temperature": 1}
    whole = load().generate("ab", 400, **way)
    text = load().generate("ab", 50, until_sentence=True, **way)
    assert whole.startswith(text)
    assert len(text) >= 50
    assert re.fullmatch(r"(?s).*[abcd].*\.", text)
    assert whole[len(text)] in "\n "


def test_without_a_seed_it_goes_on_from_a_window_of_its_own(tale: Writer) -> None:
    windows = tale.checkpoint.seed_windows
    for random_seed in range(6):
        window = pick_seed_window(windows, random_seed)
        way: dict[str, Any] = {"random_seed": random_seed, "temperature": 1}
        assert window in windows
        assert tale.generate(None, 30, **way) == tale.generate(window, 30, **way)


def test_a_model_without_windows_begins_a_line() -> None:
    save_model(TALE, config={"seed_windows": []})
    assert load().generate(length=30, random_seed=1) == load().generate("\n", 30, random_seed=1)


def test_pieces_are_the_text(tale: Writer) -> None:
    way: dict[str, Any] = {"random_seed": 4, "temperature": 1, "stop": ("ab\n",)}
    pieces = list(tale.stream("ab", 80, **way))
    assert all(pieces)
    assert len(pieces) > 40
    assert "".join(pieces) == tale.generate("ab", 80, **way)


def test_a_stream_writes_no_more_than_is_asked_for(
    tale: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    step = tale.voice.parts[0][0]
    advance = step.advance
    monkeypatch.setattr(step, "advance", lambda *args: (calls.append(1), advance(*args)))
    pieces = tale.stream("abc", 10**9)
    assert calls == []
    assert len(next(pieces)) == 1
    assert len(calls) == 3
    assert len(next(pieces)) == 1
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"seed_text": "aX"}, SeedTextError, "the model has never seen 'x'"),
        ({"temperature": -1.0}, ConfigError, "temperature must be a finite number at least 0"),
        ({"temperature": float("nan")}, ConfigError, "temperature must be a finite number"),
        ({"temperature": float("inf")}, ConfigError, "temperature must be a finite number"),
        ({"top_k": 1.5}, ConfigError, "top-k must be a whole number"),
        ({"temperature": 1.0, "beams": 2}, ConfigError, "beam search does not draw"),
        ({"length": -1}, ConfigError, "length must be a whole number"),
        ({"stop": ["a", ""]}, ConfigError, "a stop text needs at least one character"),
        ({"stop": ""}, ConfigError, "a stop text needs at least one character"),
        ({"lines": 0}, ConfigError, "lines must be a whole number"),
        ({"lines": 2, "until_sentence": True}, ConfigError, "exclude each other"),
        ({"random_seed": -1}, ConfigError, "random-seed must be a whole number"),
        ({"random_seed": 2**63}, ConfigError, "random-seed must be a whole number"),
        ({"random_seed": 1.0}, ConfigError, "random-seed must be a whole number"),
        ({"temprature": 1}, ConfigError, "there is no setting temprature"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_at_once(
    tale: Writer, arguments: dict[str, Any], kind: type[InputError], message: str
) -> None:
    given = {"seed_text": "ab"} | arguments
    for method in (tale.stream, tale.generate):
        with pytest.raises(kind, match=message) as caught:
            method(**given)  # no piece was asked for
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_an_impossible_temperature_is_shown(tale: Writer, temperature: float) -> None:
    with pytest.raises(ConfigError) as caught:
        tale.generate("ab", temperature=temperature)
    assert (
        caught.value.message == f"temperature must be a finite number at least 0, not {temperature}"
    )


# --- settings, seeds ----------------------------------------------------------------


def test_settings_are_the_models_own_but_for_what_was_given(tale: Writer) -> None:
    usual = SamplingConfig(temperature=DEFAULT_TEMPERATURE, top_p=DEFAULT_TOP_P)
    assert tale.sampling() == usual
    assert tale.sampling(top_k=4) == SamplingConfig(temperature=DEFAULT_TEMPERATURE, top_k=4)
    assert tale.sampling(temperature=1.5).temperature == 1.5
    # What a search needs, and what Mirostat does without, follows by itself.
    assert tale.sampling(beams=3) == SamplingConfig(temperature=0, beams=3)
    assert tale.sampling(mirostat=2.5) == SamplingConfig(temperature=1, mirostat=2.5)
    save_model(Path("checkpoints/window"), network={"carries_state": False})
    assert load("window").sampling() == SamplingConfig(temperature=0)


def test_an_unknown_setting_is_answered_with_those_there_are(tale: Writer) -> None:
    with pytest.raises(ConfigError) as caught:
        tale.sampling(temperature=1, diversity=2)
    assert caught.value.message == "there is no setting diversity"
    assert caught.value.hint == (
        "temperature, top_k, top_p, min_p, typical_p, repetition_penalty, mirostat, beams"
    )


def test_each_sample_has_a_window_or_all_have_the_seed(tale: Writer) -> None:
    numbers = [4, 9, 2, 7, 4]
    windows = tale.checkpoint.seed_windows
    assert tale.seeds(None, numbers) == [pick_seed_window(windows, n) for n in numbers]
    assert len(set(tale.seeds(None, range(60)))) == len(windows)
    assert tale.seeds("bé", numbers) == ["bé"] * 5
    assert tale.seeds("", numbers) == [""] * 5
    assert tale.seeds("ab", []) == []


def test_a_seed_is_read_as_the_corpus_was_and_then_fitted(tale: Writer) -> None:
    # The corpus was lower-cased and composed: É is a letter of its own.
    assert tale.seeds("AE\u0301\r\nB", [0]) == ["aé\nb"]
    with pytest.raises(SeedTextError, match=r"'☃' \(U\+2603, position 2\) of the seed text"):
        tale.seeds("A☃", [0])
    assert tale.seeds("Aü☃B", [0], unknown="skip") == ["ab"]
    assert tale.seeds("Á☃B", [0], unknown="nearest") == ["ab"]
    way: dict[str, Any] = {"random_seed": 5, "temperature": 1}
    assert tale.generate("Á☃B", 30, unknown="nearest", **way) == tale.generate("ab", 30, **way)
    assert tale.generate("C☃B", 30, unknown="skip", **way) == tale.generate("cb", 30, **way)


LAST = 2**63 - 1


def test_samples_are_numbered_one_after_the_other() -> None:
    assert make_random_seeds(5, n_samples=3) == [5, 6, 7]
    assert make_random_seeds(0, n_samples=1) == [0]
    assert make_random_seeds(LAST, n_samples=3) == [LAST, 0, 1]
    assert make_random_seeds(5, n_samples=0) == []


def test_without_a_number_there_is_a_new_one_each_time() -> None:
    drawn = [make_random_seeds(None, n_samples=2) for _ in range(20)]
    for first, second in drawn:
        assert second == first + 1
        # So short that a person can type it.
        assert 0 <= first < 2**32
    # Two of 20 numbers of 32 bits are the same once in 20 million times.
    assert len({first for first, _ in drawn}) == 20


@pytest.mark.parametrize("number", [-1, 2**63, 1.0, True, "7", float("nan")])
def test_an_impossible_number_is_refused(number: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make_random_seeds(number, n_samples=2)
    assert (
        caught.value.message
        == f"random-seed must be a whole number from 0 to 9223372036854775807, not {number!r}"
    )


# --- several models ------------------------------------------------------------------


@pytest.fixture
def two() -> dict[str, float]:
    save_model(TALE, random_seed=1)
    shape = {"units": 4, "layers": 3}
    save_model(Path("checkpoints/saga"), random_seed=2, characters="\n ab.,xyz", network=shape)
    return {"tale": 0.6, "saga": 1.8}


def test_a_mix_is_the_voice_of_all(two: dict[str, float]) -> None:
    mixed = mix(two)
    assert mixed.name == "tale + saga"
    assert mixed.checkpoint.model.name == "tale"
    assert [(c.model.name, weight) for c, weight in mixed.checkpoints] == list(two.items())
    assert [share for _, _, share in mixed.voice.parts] == pytest.approx([0.25, 0.75])
    assert "".join(mixed.voice.vocabulary.characters) == "\n ab"
    voice = Voice.mixed([(load(name).checkpoint, weight) for name, weight in two.items()])
    pieces = write_texts(voice, ["ab a"], random_seeds=[9], rules=StopRules(length=40))
    assert mixed.generate("ab a", 40, random_seed=9) == "".join(piece.text for piece in pieces)


def test_a_mix_of_one_is_that_model(tale: Writer) -> None:
    for weight in (1.0, 7.5):
        alone = mix({"tale": weight})
        assert alone.name == "tale"
        assert alone.generate("ab", 50, random_seed=2) == tale.generate("ab", 50, random_seed=2)
        assert alone.score("abcd") == tale.score("abcd")


def test_a_mix_takes_checkpoints_by_name() -> None:
    for step, val_loss in ((8, 1.0), (16, 2.0)):
        save_model(TALE, step, val_loss=val_loss)
    assert mix({"tale": 1}).checkpoint.info.step == 8
    assert mix({"tale": 1}, checkpoint="last").checkpoint.info.step == 16


def test_an_impossible_mix_is_refused(two: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="a mix needs at least one model"):
        mix({})
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="a model's weight must be a finite number above 0"):
            mix({"tale": 1.0, "saga": weight})
    with pytest.raises(ModelNotFoundError, match="there is no model ode"):
        mix({"tale": 1.0, "ode": 1.0})
    save_model(Path("checkpoints/ode"), characters="uvwxyz")
    with pytest.raises(ConfigError, match="tale and ode have 0 characters in common"):
        mix({"tale": 1.0, "ode": 1.0})


def test_a_mix_scores_nothing(two: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        mix(two).score("ab a")
    assert caught.value.message == "a mix writes; only one model at a time scores a text"


# --- score -------------------------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
def test_a_score_is_that_of_the_text_as_the_corpus_was_read(carries_state: bool) -> None:
    save_model(TALE, network={"carries_state": carries_state})
    network = make_network(carries_state=carries_state)
    step = LSTMStep(network, random_weights(network))
    ids = np.array([CHARACTERS.index(c) for c in "abcdé\nab " * 5])
    expected = score_ids(step, ids)
    assert load().score("abcdé\nab " * 5) == expected
    assert load().score("ABCDE\u0301\r\nAB " * 5) == expected
    assert load().score("abcdé☃\nab " * 5, unknown="skip") == expected
    assert load().score("åbcdé\nab " * 5, unknown="nearest") == expected
    assert expected.n_scored == 44


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("ab☃", SeedTextError, r"'☃' \(U\+2603, position 3\) of the text"),
        ("a", InputError, "a text needs at least 2 characters to be scored"),
        ("", InputError, "a text needs at least 2 characters to be scored"),
    ],
)
def test_a_text_that_cannot_be_scored_is_refused(
    tale: Writer, text: str, kind: type[InputError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        tale.score(text)


def test_a_step_may_be_a_number(tale: Writer) -> None:
    step = tale.checkpoint.info.step
    assert load("tale", checkpoint=step).checkpoint.info.step == step


def test_a_way_to_treat_unknown_characters_must_exist(tale: Writer) -> None:
    with pytest.raises(ConfigError, match="'nearst'"):
        tale.generate("ab", 3, unknown="nearst")
