"""Writing in turns: the text that both have written, the commands, the terminal."""

from __future__ import annotations

import codecs
import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    LONG_MEMORY,
    Weights,
    make_checkpoint,
    make_config,
    make_network,
    naive_text,
    random_weights,
    save,
)

from charlstm.config import NetworkConfig
from charlstm.conversation import HELP, Conversation
from charlstm.errors import ConfigError, InputError, SeedTextError
from charlstm.generation import Voice, write_texts
from charlstm.sampling import Sampler, SamplingConfig
from charlstm.stopping import StopRules
from charlstm.vocabulary import Vocabulary

NETWORK = make_network()
# By argmax this one writes well-mixed characters, and remembers for long.
WEIGHTS = random_weights(NETWORK, 3)
# And this one goes round in a circle of five characters.
CIRCLING = random_weights(NETWORK, 18)


def converse(
    folder: Path,
    *,
    network: NetworkConfig = NETWORK,
    weights: Weights = WEIGHTS,
    vocabulary: str = CHARACTERS,
    temperature: float = 0.0,
    length: int | None = 9,
    random_seed: int = 5,
    unknown: str = "error",
    rules: dict[str, Any] | None = None,
    **sampling: Any,
) -> Conversation:
    checkpoint = make_checkpoint(
        folder, network, weights, Vocabulary(vocabulary), seed_windows=[vocabulary[:3]]
    )
    return Conversation(
        Voice.of(checkpoint),
        sampling=SamplingConfig(temperature=temperature, **sampling),
        rules=StopRules(length=length, **(rules or {})),
        random_seed=random_seed,
        unknown=unknown,
    )


def turn(conversation: Conversation) -> str:
    return "".join(conversation.go_on())


class Transcript:
    """All that was written, read anew from its beginning for each character."""

    def __init__(self, network: NetworkConfig = NETWORK, weights: Weights = WEIGHTS) -> None:
        self.text = ""
        self._network, self._weights = network, weights

    def go_on(self, length: int = 9) -> str:
        text = naive_text(self._network, self._weights, self.text, length)
        self.text += text
        return text


# --- one text in turns --------------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
def test_turns_are_one_text_that_is_read_from_its_beginning(
    tmp_path: Path, carries_state: bool
) -> None:
    network = make_network(carries_state=carries_state)
    conversation = converse(tmp_path, network=network)
    transcript = Transcript(network)
    for line in ("abc", "é", "d b", "", "ca\nd", "a"):
        read = conversation.say(line)
        assert read == line
        # A line begins on a line of its own, also where the model had not ended its.
        if line and transcript.text and not transcript.text.endswith("\n"):
            transcript.text += "\n"
        transcript.text += line
        assert turn(conversation) == transcript.go_on()


def test_what_was_said_long_ago_still_counts(tmp_path: Path) -> None:
    weights = random_weights(NETWORK, 10, gate_biases=LONG_MEMORY)
    answers = {}
    for first in ("aaaaaaaa", "éééééééé"):
        conversation = converse(tmp_path / first, weights=weights, length=4)
        transcript = Transcript(weights=weights)
        for line in (first, "b", "bcd bcd bcd "):
            if transcript.text and not transcript.text.endswith("\n"):
                transcript.text += "\n"
            conversation.say(line)
            transcript.text += line
            answers[first] = turn(conversation)
            assert answers[first] == transcript.go_on(4)
    assert len(set(answers.values())) == 2, "chosen badly: what was said first does not matter"


def test_a_mix_converses_as_it_writes(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "one", weights=WEIGHTS)
    shape = make_network(vocabulary_size=9, units=4)
    other = make_checkpoint(
        tmp_path / "other", shape, random_weights(shape, 4), Vocabulary("\n abcdxyz"),
        seed_windows=[],
    )  # fmt: skip
    voice = Voice.mixed([(one, 1.0), (other, 2.0)])
    sampling, rules = SamplingConfig(temperature=0), StopRules(length=9)
    conversation = Conversation(voice, sampling=sampling, rules=rules, random_seed=0)
    text = ""
    for line in ("ab", "cd c"):
        conversation.say(line)
        text += "\n" * bool(text and text[-1] != "\n") + line
        written = write_texts(voice, [text], random_seeds=[0], sampling=sampling, rules=rules)
        expected = "".join(piece.text for piece in written)
        assert turn(conversation) == expected
        text += expected


@pytest.mark.parametrize(
    ("said", "is_separate"), [("b\n", False), ("b", True), ("\n", False), (" ", True)]
)
def test_a_line_feed_is_put_where_there_is_none(
    tmp_path: Path, said: str, is_separate: bool
) -> None:
    conversation = converse(tmp_path)
    for line in (said, "cd"):
        conversation.say(line)
    transcript = Transcript()
    transcript.text = said + "\n" * is_separate + "cd"
    assert turn(conversation) == transcript.go_on()


def test_where_the_model_has_no_line_feed_lines_are_joined(tmp_path: Path) -> None:
    network = make_network()
    checkpoint = make_checkpoint(tmp_path, network, WEIGHTS, Vocabulary("tuvwxyz"), seed_windows=[])
    conversation = Conversation(
        Voice.of(checkpoint),
        sampling=SamplingConfig(temperature=0),
        rules=StopRules(length=9),
        random_seed=0,
    )
    as_ours = str.maketrans("tuvwxyz", CHARACTERS)
    # Nothing was said: it begins with its first character, there too.
    begun = turn(conversation).translate(as_ours)
    assert begun == naive_text(network, WEIGHTS, "\n", 9)
    conversation.say("vw")
    expected = naive_text(network, WEIGHTS, "\n" + begun + " abcdé"[1:3], 9)
    assert turn(conversation).translate(as_ours) == expected


def test_nothing_said_lets_the_model_begin_and_go_on_alone(tmp_path: Path) -> None:
    conversation = converse(tmp_path)
    transcript = Transcript()
    transcript.text = "\n"  # as where a text begins without a seed
    for _ in range(3):
        assert conversation.say("") == ""
        assert turn(conversation) == transcript.go_on()


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 1.0, "mirostat": 2.0},
        {"temperature": 0.6, "repetition_penalty": 2.0, "top_p": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("carries_state", [True, False])
def test_turns_without_a_word_between_them_are_one_long_turn(
    tmp_path: Path, carries_state: bool, sampling: dict[str, Any]
) -> None:
    network = make_network(carries_state=carries_state)
    conversation = converse(tmp_path, network=network, length=None, **sampling)
    conversation.say("abc")
    text = ""
    for length in (7, 1, 12, 300, 5):
        conversation.command(f"/length {length}")
        text += turn(conversation)
    assert len(text) == 325
    # Which is also what `generate` writes, with the same random seed.
    pieces = write_texts(
        Voice.of(make_checkpoint(tmp_path / "same", network, WEIGHTS)),
        ["abc"],
        random_seeds=[5],
        sampling=SamplingConfig(**sampling),
        rules=StopRules(length=325),
    )
    assert text == "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("n_pieces", [1, 4, 8])
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_turn_that_is_left_goes_on_as_if_it_had_not_been(
    tmp_path: Path, n_pieces: int, is_closed: bool
) -> None:
    way = {"temperature": 1.0, "repetition_penalty": 3.0}
    whole, left = (converse(tmp_path / name, **way) for name in ("whole", "left"))
    for conversation in (whole, left):
        conversation.say("abc")
    pieces = left.go_on()
    text = "".join(next(pieces) for _ in range(n_pieces))
    if is_closed:
        pieces.close()  # type: ignore[attr-defined]
    text += turn(left) + turn(left)
    expected = turn(whole) + turn(whole) + turn(whole)
    assert expected.startswith(text)
    assert len(text) == n_pieces + 18


def test_after_a_turn_that_was_left_a_line_follows_what_was_seen(tmp_path: Path) -> None:
    conversation = converse(tmp_path)
    conversation.say("abc")
    pieces = conversation.go_on()
    seen = "".join(next(pieces) for _ in range(3))
    pieces.close()  # type: ignore[attr-defined]
    conversation.say("é")
    transcript = Transcript()
    transcript.text = "abc" + seen + "\n" * (not seen.endswith("\n")) + "é"
    assert turn(conversation) == transcript.go_on()


def test_a_stop_text_ends_a_turn_and_not_the_conversation(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.text = "abc"
    whole = transcript.go_on(40)
    stop = whole[11:13]
    conversation = converse(tmp_path, length=40, rules={"stops": (stop,)})
    conversation.say("abc")
    first = turn(conversation)
    assert first == whole[: whole.index(stop)]
    # It was written all the same: the next turn goes on behind it.
    rest = whole[len(first + stop) :]
    second = turn(conversation)
    assert rest.startswith(second)
    assert second == rest.split(stop)[0][:40]


def test_lines_and_sentences_end_turns(tmp_path: Path) -> None:
    characters = "\n .abcd"
    conversation = converse(
        tmp_path, vocabulary=characters, temperature=1.0, length=None, rules={"lines": 2}
    )
    conversation.say("ab")
    for _ in range(3):
        text = turn(conversation)
        assert text.count("\n") == 2
        assert text.endswith("\n")
    conversation.command("/lines off")
    conversation.command("/length 20")
    conversation.command("/until-sentence on")
    for _ in range(3):
        text = turn(conversation)
        assert len(text) >= 20
        assert text.endswith(".")
    conversation.command("/until-sentence off")
    assert len(turn(conversation)) == 20


def test_ends_that_never_come_are_told_when_they_are_asked_for(tmp_path: Path) -> None:
    conversation = converse(tmp_path, vocabulary="abcdefg", length=5)
    for line, told in (("/lines 2", "no line feed"), ("/until-sentence on", "no mark")):
        answer = conversation.command(line)
        assert answer is not None
        assert told in answer
        name = line.split()[0]
        assert "warning" not in (conversation.command(name) or "")
        conversation.command(f"{name} off")
    assert conversation.command("/length 9") == "length 9"


def test_a_turn_of_no_length_says_nothing(tmp_path: Path) -> None:
    conversation = converse(tmp_path)
    conversation.say("abc")
    conversation.command("/length 0")
    assert turn(conversation) == ""
    conversation.command("/length 9")
    transcript = Transcript()
    transcript.text = "abc"
    assert turn(conversation) == transcript.go_on()


def test_blas_has_its_own_number_of_threads_between_turns(tmp_path: Path) -> None:
    import threadpoolctl

    def threads() -> list[int]:
        pools = threadpoolctl.threadpool_info()
        return [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]

    before = threads()
    conversation = converse(tmp_path)
    conversation.say("abc")
    assert threads() == before
    pieces = conversation.go_on()
    next(pieces)
    assert set(threads()) <= {1}
    pieces.close()  # type: ignore[attr-defined]
    assert threads() == before


# --- characters that the model has never seen ------------------------------------------


def test_a_line_with_unknown_characters_is_refused_and_not_read(tmp_path: Path) -> None:
    conversation, other = (converse(tmp_path / name, temperature=1.0) for name in "ab")
    for one in (conversation, other):
        one.say("abc")
        turn(one)
    with pytest.raises(SeedTextError) as caught:
        conversation.say("ab☃c")
    assert caught.value.message == "the model has never seen '☃' (U+2603, position 3) of this line"
    assert caught.value.hint is not None
    for one in (conversation, other):
        one.say("d")
    assert turn(conversation) == turn(other)


@pytest.mark.parametrize(
    ("unknown", "line", "known"),
    [
        ("error", "ABÉ", "abé"),  # the corpus was lower-cased
        ("error", "E\u0301\r\na", "é\na"),
        ("skip", "a☃b", "ab"),
        ("skip", "☃", ""),
        ("nearest", "åb☃", "ab"),
    ],
)
def test_a_line_is_read_as_a_seed_is(tmp_path: Path, unknown: str, line: str, known: str) -> None:
    conversation, other = (
        converse(tmp_path / "one", unknown=unknown),
        converse(tmp_path / "other", unknown="error"),
    )
    assert conversation.say("a") == other.say("a")
    assert turn(conversation) == turn(other)
    # Of which nothing is left does not begin a line either.
    assert conversation.say(line) == known
    other.say(known)
    assert turn(conversation) == turn(other)


# --- commands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "answer", "sampling", "rules"),
    [
        ("/temperature", "temperature 0.6", {}, {}),
        ("/temperature 1.25", "temperature 1.25", {"temperature": 1.25}, {}),
        ("/TEMPERATURE 2", "temperature 2", {"temperature": 2.0}, {}),
        ("/temperature   0 ", "temperature 0", {"temperature": 0.0}, {}),
        ("/ temperature 1", "temperature 1", {"temperature": 1.0}, {}),
        ("/top-k 3", "top-k 3", {"top_k": 3}, {}),
        ("/top_k 3", "top-k 3", {"top_k": 3}, {}),
        ("/top-k", "top-k 0", {}, {}),
        ("/top-p 0.9", "top-p 0.9", {"top_p": 0.9}, {}),
        ("/min-p .05", "min-p 0.05", {"min_p": 0.05}, {}),
        ("/typical-p 0.5", "typical-p 0.5", {"typical_p": 0.5}, {}),
        ("/repetition-penalty 1.5", "repetition-penalty 1.5", {"repetition_penalty": 1.5}, {}),
        ("/mirostat", "mirostat off", {}, {}),
        # Which does without a temperature.
        ("/mirostat 3", "mirostat 3", {"mirostat": 3.0, "temperature": 1.0}, {}),
        ("/mirostat off", "mirostat off", {}, {}),
        ("/beams", "beams 1", {}, {}),
        ("/beams 1", "beams 1", {}, {}),
        ("/length 7", "length 7", {}, {"length": 7}),
        ("/length", "length 9", {}, {}),
        ("/length off", "length 500", {}, {"length": None}),
        ("/lines 4", "lines 4", {}, {"lines": 4}),
        ("/lines", "lines off", {}, {}),
        ("/lines none", "lines off", {}, {}),
        ("/until-sentence", "until-sentence off", {}, {}),
        ("/until-sentence on", "until-sentence on", {}, {"until_sentence": True}),
        ("/until-sentence OFF", "until-sentence off", {}, {}),
    ],
)
def test_a_command_changes_what_it_names_and_says_so(
    tmp_path: Path, line: str, answer: str, sampling: dict[str, Any], rules: dict[str, Any]
) -> None:
    conversation = converse(tmp_path, temperature=0.6, rules={"stops": ("é",)})
    assert (conversation.command(line) or "").splitlines()[0] == answer
    assert conversation.sampling == SamplingConfig(**({"temperature": 0.6} | sampling))
    assert conversation.rules == StopRules(**({"length": 9, "stops": ("é",)} | rules))


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q", "/Quit", "/ quit", "/quit now"])
def test_some_commands_end_it(tmp_path: Path, line: str) -> None:
    assert converse(tmp_path).command(line) is None


@pytest.mark.parametrize("line", ["/help", "/h", "/?", "/", "/HELP", "/help me"])
def test_help_names_the_commands(tmp_path: Path, line: str) -> None:
    assert converse(tmp_path).command(line) == HELP
    for name in ("temperature", "top-k", "length", "lines", "settings", "reset", "help", "quit"):
        assert f"/{name}" in HELP


def test_the_settings_are_commands_that_set_them(tmp_path: Path) -> None:
    conversation = converse(
        tmp_path, temperature=0.6, top_k=3, length=None, rules={"until_sentence": True}
    )
    settings = conversation.command("/settings")
    assert settings == conversation.describe()
    assert settings == (
        "/temperature 0.6\n/top-k 3\n/top-p 1\n/min-p 0\n/typical-p 1\n/repetition-penalty 1\n"
        "/mirostat off\n/length 500\n/lines off\n/until-sentence on"
    )
    other = converse(tmp_path / "other")
    for line in settings.splitlines():
        other.command(line)
    assert other.describe() == settings
    assert other.sampling == conversation.sampling


def test_lines_without_a_length_have_as_many_characters_as_they_take(tmp_path: Path) -> None:
    conversation = converse(tmp_path, length=None, rules={"lines": 4})
    assert conversation.command("/length") == "length 4000"
    assert "\n/length 4000\n" in str(conversation.command("/settings"))


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/nosuch", "there is no command /nosuch", "see /help"),
        ("/temprature 1", "there is no command /temprature", "did you mean /temperature?"),
        ("/topk 1", "there is no command /topk", "did you mean /top-k?"),
        ("/repetition_penality 2", "there is no command /repetition_penality",
         "did you mean /repetition-penalty?"),
        ("/rest", "there is no command /rest", "did you mean /reset?"),
        ("/x 1", "there is no command /x", "see /help"),
        ("/\x1b[2J", r"there is no command /\x1b[2J", "see /help"),
        ("/temperature hot", "temperature is a number, not hot", None),
        ("/temperature 1 2", "temperature is a number, not 1 2", None),
        ("/temperature \x1b[2J", r"temperature is a number, not \x1b[2J", None),
        ("/temperature off", "temperature is a number, not off", None),
        ("/top-k 1.5", "top-k is a whole number, not 1.5", None),
        ("/length 1e3", "length is a whole number, not 1e3", None),
        ("/length " + "9" * 5_000, "length is a whole number, not " + "9" * 5_000, None),
        ("/until-sentence maybe", "until-sentence is on or off, not maybe", None),
        ("/temperature -1", "temperature must be a finite number at least 0, not -1.0", None),
        ("/temperature nan", "temperature must be a finite number at least 0, not nan", None),
        ("/temperature inf", "temperature must be a finite number at least 0, not inf", None),
        ("/top-k -1", "top-k must be a whole number from 0 to 1114112, not -1", None),
        ("/top-p 0", "top-p must be a finite number above 0 and at most 1, not 0.0", None),
        ("/mirostat 0", "mirostat must be a finite number above 0 and at most 32, not 0.0", None),
        ("/length -1", "length must be a whole number from 0 to 1000000000000, not -1", None),
        ("/lines 0", "lines must be a whole number from 1 to 1000000000, not 0", None),
        ("/until-sentence on", "until-sentence and lines exclude each other", None),
        ("/beams 2", "beam search looks ahead, which a conversation cannot", None),
        ("/beams 0", "beam search looks ahead, which a conversation cannot", None),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_command_that_is_wrong_changes_nothing(
    tmp_path: Path, line: str, message: str, hint: str | None
) -> None:
    conversation, other = (
        converse(tmp_path / name, temperature=0.9, top_k=5, length=None, rules={"lines": 1})
        for name in "ab"
    )
    for one in (conversation, other):
        one.say("abc")
    first = turn(conversation)
    settings = conversation.describe()
    with pytest.raises(InputError) as caught:
        conversation.command(line)
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.message.isprintable()
    assert conversation.describe() == settings
    # Nor the text, nor the draws.
    assert [first, turn(conversation)] == [turn(other), turn(other)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/top-k 3", "mirostat takes the place of top-k"),
        ("/temperature 0", "mirostat draws, and temperature 0 does not"),
    ],
)
def test_what_mirostat_excludes_is_refused(tmp_path: Path, line: str, message: str) -> None:
    conversation = converse(tmp_path, temperature=1.0, mirostat=2.0)
    with pytest.raises(ConfigError, match=message):
        conversation.command(line)
    assert conversation.sampling == SamplingConfig(mirostat=2.0)
    conversation.command("/mirostat off")
    conversation.command(line)


def test_mirostat_takes_the_place_of_the_filters(tmp_path: Path) -> None:
    conversation = converse(tmp_path, temperature=0.6, top_k=3, top_p=0.9)
    assert conversation.command("/mirostat 2") == "mirostat 2"
    assert conversation.sampling == SamplingConfig(temperature=1.0, mirostat=2.0)


def test_mirostat_gives_back_only_what_it_took(tmp_path: Path) -> None:
    conversation = converse(tmp_path, temperature=0.6, top_p=0.9)
    conversation.command("/mirostat 2")
    conversation.command("/repetition-penalty 2")
    conversation.command("/mirostat off")
    before = {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 2.0}
    assert conversation.sampling == SamplingConfig(**before)
    conversation.command("/mirostat 1")
    conversation.command("/temperature 0.4")
    conversation.command("/mirostat off")
    assert conversation.sampling == SamplingConfig(**(before | {"temperature": 0.4}))


@pytest.mark.parametrize("end", [".", "。"])
def test_what_tells_that_a_sentence_is_over_begins_the_next_turn(tmp_path: Path, end: str) -> None:
    characters = f"\n {end}abcd"
    conversation = converse(
        tmp_path, vocabulary=characters, temperature=1.0, length=3,
        rules={"until_sentence": True},
    )  # fmt: skip
    conversation.say("ab")
    turns = [turn(conversation) for _ in range(6)]
    assert all(text.rstrip(end).endswith(tuple("abcd")) or text.endswith(end) for text in turns)
    # The same draws without an end to a turn: not a character is lost.
    whole = converse(tmp_path, vocabulary=characters, temperature=1.0, length=sum(map(len, turns)))
    whole.say("ab")
    assert "".join(turns) == turn(whole)
    before = conversation._last
    conversation.command("/length 0")
    conversation.command("/until-sentence off")
    assert turn(conversation) == ""
    assert conversation._unsaid is not None
    conversation.say("cd")
    assert before == turns[-1][-1]
    assert conversation._unsaid is None


def test_a_conversation_does_not_begin_with_beams(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="beam search looks ahead"):
        converse(tmp_path, beams=3)


def test_a_reset_forgets_all_but_the_settings(tmp_path: Path) -> None:
    conversation = converse(tmp_path, temperature=1.0, length=30, repetition_penalty=2.0)
    texts = []
    for _ in range(2):
        texts.append([])
        for line in ("abc", "d"):
            conversation.say(line)
            texts[-1].append(turn(conversation))
        assert conversation.command("/reset") == "forgotten"
    # The draws begin anew too: the same again.
    assert texts[0] == texts[1]
    conversation.command("/temperature 0")
    conversation.command("/repetition-penalty 1")
    conversation.reset()
    assert conversation.sampling == SamplingConfig(temperature=0)
    transcript = Transcript()
    transcript.text = "\n"  # nothing was said
    assert turn(conversation) == transcript.go_on(30)


def test_the_temperature_may_change_between_turns(tmp_path: Path) -> None:
    conversation = converse(tmp_path, temperature=1.0)
    conversation.say("abc")
    transcript = Transcript()
    transcript.text = "abc" + turn(conversation)
    conversation.command("/temperature 0")
    assert turn(conversation) == transcript.go_on()
    conversation.command("/temperature 3")
    assert turn(conversation) != Transcript.go_on(transcript)


def changed_by_hand(
    voice: Voice, text: str, turns: list[tuple[SamplingConfig, int]], *, random_seed: int
) -> list[str]:
    """Write with a reader and a sampler, changed between turns."""
    reader, characters = voice.reader(batch=1), voice.vocabulary.characters
    sampler = Sampler(turns[0][0], random_seeds=[random_seed])
    for next_id in voice.vocabulary.encode(text):
        reader.read(np.array([next_id]))
        sampler.read(np.array([next_id]))
    written = []
    for sampling, length in turns:
        if sampling != sampler.config:
            sampler.change(sampling)
        ids = []
        for _ in range(length):
            picked = sampler.pick(reader.logits())
            reader.read(picked)
            ids.append(int(picked[0]))
        written.append("".join(characters[n] for n in ids))
    return written


def test_mirostat_may_be_switched_on_and_off(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path / "same", weights=WEIGHTS))
    plain = SamplingConfig(temperature=0.9)
    turns = [
        (plain, 30),
        (SamplingConfig(mirostat=0.5), 30),
        (SamplingConfig(mirostat=2.5), 30),
        (plain, 30),  # as before it was switched on
    ]
    expected = changed_by_hand(voice, "abc", turns, random_seed=5)
    conversation = converse(tmp_path, temperature=0.9, length=30)
    conversation.say("abc")
    written = [turn(conversation)]
    for line in ("/mirostat 0.5", "/mirostat 2.5", "/mirostat off"):
        conversation.command(line)
        written.append(turn(conversation))
    assert written == expected


def test_a_penalty_counts_what_was_said_and_written_since_it_is_on(tmp_path: Path) -> None:
    conversation = converse(tmp_path, weights=CIRCLING, length=60)
    transcript = Transcript(weights=CIRCLING)
    conversation.say("b")
    transcript.text = "b"
    assert turn(conversation) == transcript.go_on(60)
    circle = Transcript.go_on(transcript, 60)
    conversation.command("/repetition-penalty 1000")
    text = turn(conversation)
    # Once round and 12 characters more are not yet too long a repetition.
    assert text != circle
    n_alike = next(n for n in range(60) if text[n] != circle[n])
    assert 11 <= n_alike <= 20
    # And what a person says is part of it.
    conversation.reset()
    conversation.say("b" + circle)
    expected = Transcript(weights=CIRCLING)
    expected.text = "b" + circle
    assert turn(conversation)[0] != expected.go_on(1)


# --- through a pipe ------------------------------------------------------------------------

unix_only = pytest.mark.skipif(os.name == "nt", reason="terminals and signals of Unix")
COMMAND = [sys.executable, "-m", "charlstm", "generate", "--interactive"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `tale`."""
    monkeypatch.chdir(tmp_path)
    config = make_config(NETWORK)
    save(Path("checkpoints/tale"), 40, network=NETWORK, weights=WEIGHTS, config=config)
    return tmp_path


def piped(lines: str | bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    data = lines.encode() if isinstance(lines, str) else lines
    return subprocess.run([*COMMAND, *options], input=data, capture_output=True, timeout=60)


GREEDY = ("--temperature", "0", "-n", "9", "--unknown", "error")


def test_stdout_is_the_text_and_stderr_the_answers(place: Path) -> None:
    lines = [
        "abc",
        "/temperature",
        "",
        "/nosuch",
        "/temprature 1",
        "ab☃",
        "É",
        "/length 4",
        "/settings",
        "d",
        "/reset",
        "abc",
    ]
    done = piped("\n".join(lines), *GREEDY)  # the last line need not be ended
    transcript = Transcript()
    transcript.text = "abc"
    turns = [transcript.go_on(), transcript.go_on()]
    for line, length in (("é", 9), ("d", 4)):
        transcript.text += "\n" * (not transcript.text.endswith("\n")) + line
        turns.append(transcript.go_on(length))
    transcript.text = "abc"
    turns.append(transcript.go_on(4))
    assert done.stdout.decode() == "".join(text + "\n" for text in turns)
    assert done.stderr.decode() == (
        "temperature 0\n"
        "Error: there is no command /nosuch\n"
        "hint: see /help\n"
        "Error: there is no command /temprature\n"
        "hint: did you mean /temperature?\n"
        "Error: the model has never seen '☃' (U+2603, position 3) of this line\n"
        "hint: --unknown nearest writes them as it can, --unknown skip leaves them out\n"
        "length 4\n"
        "/temperature 0\n/top-k 0\n/top-p 1\n/min-p 0\n/typical-p 1\n/repetition-penalty 1\n"
        "/mirostat off\n/length 4\n/lines off\n/until-sentence off\n"
        "forgotten\n"
    )
    assert done.returncode == 0


def test_quitting_leaves_the_rest_unread(place: Path) -> None:
    done = piped("/quit\nabc\n", *GREEDY)
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


def test_no_lines_are_no_text(place: Path) -> None:
    done = piped("", *GREEDY)
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


def test_a_seed_is_what_was_said_first(place: Path) -> None:
    done = piped("\né\n", *GREEDY, "--seed", "BÅ☃d", "--unknown", "nearest")
    transcript = Transcript()
    transcript.text = "bad"
    first = transcript.go_on()
    transcript.text += "\n" * (not first.endswith("\n")) + "é"
    assert done.stdout.decode() == f"{first}\n{transcript.go_on()}\n"
    assert done.returncode == 0


def test_a_person_need_not_know_the_vocabulary(place: Path) -> None:
    nearest = piped("ÀB☃\n", "--temperature", "0", "-n", "9")
    assert nearest.returncode == 0
    assert nearest.stderr == b""
    assert nearest.stdout == piped("ab\n", *GREEDY).stdout


def test_a_seed_that_cannot_be_read_is_an_error(place: Path) -> None:
    done = piped("abc\n", *GREEDY, "--seed", "ab☃")
    assert done.stdout == b""
    assert done.stderr.decode().startswith("Error: the model has never seen '☃'")
    assert done.returncode == 2


def test_a_pipe_that_is_not_utf_8_is_an_error(place: Path) -> None:
    done = piped(b"abc\n\xff\xfe\n", *GREEDY)
    assert done.stderr == b"Error: the standard input is not UTF-8\n"
    assert done.returncode == 2


def test_a_pipe_is_utf_8_whatever_the_locale(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two unknown characters were read in place of an é.
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    done = piped("éa\n", *GREEDY)
    assert done.stdout.decode() == naive_text(NETWORK, WEIGHTS, "éa", 9) + "\n"
    assert (done.stderr, done.returncode) == (b"", 0)


def test_the_same_random_seed_gives_the_same_conversation(place: Path) -> None:
    way = ("--temperature", "1", "-n", "40", "--random-seed")
    one, two = (piped("ab\n\ncd\n", *way, "7") for _ in range(2))
    assert one.stdout == two.stdout
    assert len(one.stdout.decode()) == 3 * 41


def wait_until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """Let a process come to rest where it reads.

    A signal that comes between the prompt and the waiting for a key is seen by
    Python only at the end of the line.
    """
    status = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 60
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline


@pytest.fixture
def endless(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A conversation through pipes, in which a turn would last for hours."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, "--temperature", "1", "-n", "1000000000"],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        bufsize=0,  # what a buffer held would be lost to `communicate`
    ) as process:
        yield process
        process.kill()


def write_line(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")


def read_bytes(process: subprocess.Popen[bytes], n_bytes: int) -> bytes:
    """Read at least so many bytes of text."""
    assert process.stdout is not None
    data = b""
    while len(data) < n_bytes:
        more = process.stdout.read(n_bytes)
        assert more, "it has ended"
        data += more
    return data


@unix_only
def test_an_interrupt_stops_a_turn_and_the_next_line_is_read(
    endless: subprocess.Popen[bytes],
) -> None:
    write_line(endless, "ab\n/length 4\n/settings\nc")
    begun = read_bytes(endless, 500)
    endless.send_signal(signal.SIGINT)
    stdout, stderr = endless.communicate(timeout=60)
    text = (begun + stdout).decode()
    assert text.endswith("\n")
    assert text[-6] == "\n"
    assert set(text) <= set(CHARACTERS)
    assert stderr.decode().startswith("length 4\n/temperature 1\n")
    assert endless.returncode == 0


@unix_only
def test_an_interrupt_while_it_waits_for_a_line_ends_it(endless: subprocess.Popen[bytes]) -> None:
    write_line(endless, "/length 4\nab")
    assert endless.stdout is not None
    assert endless.stdout.readline().endswith(b"\n")
    write_line(endless, "/length")
    assert endless.stderr is not None
    assert [endless.stderr.readline() for _ in range(2)] == [b"length 4\n"] * 2
    wait_until_it_waits(endless)
    endless.send_signal(signal.SIGINT)
    _, stderr = endless.communicate(timeout=60)
    assert stderr.strip() == b"Error: interrupted"
    assert endless.returncode == 130


@unix_only
def test_a_closed_pipe_ends_a_turn_quietly(endless: subprocess.Popen[bytes]) -> None:
    write_line(endless, "ab")
    read_bytes(endless, 100)
    assert endless.stdout is not None
    endless.stdout.close()
    assert endless.wait(timeout=60) == 0
    assert endless.stderr is not None
    assert endless.stderr.read() == b""


# --- on a terminal -----------------------------------------------------------------------

# The new session's first process takes the terminal for its own, as a login
# shell does: only then does Ctrl-C on it become a signal.
TAKE_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("charlstm", run_name="__main__", alter_sys=True)
"""


class Terminal:
    """A person at a terminal: types, and reads what is on the screen."""

    def __init__(self, *options: str, **streams: Any) -> None:
        import pty

        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, "generate", "--interactive", *options],
            **({"stdin": theirs, "stdout": theirs, "stderr": theirs} | streams),
            start_new_session=True,
            env={**os.environ, "TERM": "dumb", "INPUTRC": os.devnull, "LC_ALL": "C.UTF-8"},
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.is_closed = False
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, what: str, *, n_chars: int = 0) -> str:
        """Read on until something new ends with `what`; a minute at most."""
        seen = ""
        deadline = time.monotonic() + 60
        while not (seen.endswith(what) and len(seen) >= n_chars):
            assert time.monotonic() < deadline, seen[-500:]
            if select.select([self._ours], [], [], 1)[0]:
                seen += self._read()
        self.screen += seen
        return seen.replace("\r\n", "\n")

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + 60
        while not self.is_closed:
            assert time.monotonic() < deadline, self.screen[-500:]
            if select.select([self._ours], [], [], 0.05)[0]:
                self.screen += self._read()
            elif self.process.poll() is not None:
                break
        return self.process.wait(timeout=60)

    def _read(self) -> str:
        try:
            # An é is echoed byte by byte.
            return self._decoder.decode(os.read(self._ours, 1 << 16))
        except OSError as error:  # how Linux says that nobody has it open any more
            assert error.errno == errno.EIO
            self.is_closed = True
            return ""

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def at_terminal(place: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def open_terminal(*options: str, **streams: Any) -> Terminal:
        opened.append(Terminal(*options, **streams))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()


@unix_only
def test_a_person_is_prompted_and_answered(at_terminal: Any) -> None:
    terminal = at_terminal(*GREEDY)
    hello = terminal.wait_for("> ")
    assert hello == "type a line and the model goes on from it; /help, Ctrl-D ends\n> "
    transcript = Transcript()
    transcript.text = "abc"
    terminal.type("abc\n")
    assert terminal.wait_for("> ") == f"abc\n{transcript.go_on()}\n> "
    terminal.type("/length 4\n")
    assert terminal.wait_for("> ") == "/length 4\nlength 4\n> "
    terminal.type("/lenght\n")
    assert terminal.wait_for("> ") == (
        "/lenght\nError: there is no command /lenght\nhint: did you mean /length?\n> "
    )
    transcript.text += "\n" * (not transcript.text.endswith("\n")) + "éa"
    terminal.type("éa\n")
    assert terminal.wait_for("> ") == f"éa\n{transcript.go_on(4)}\n> "
    terminal.type("\x04")
    assert terminal.wait() == 0
    assert terminal.screen.endswith("> \r\n")


@unix_only
def test_ctrl_c_stops_a_turn_and_not_the_program(at_terminal: Any) -> None:
    terminal = at_terminal("--temperature", "1", "-n", "1000000000")
    terminal.wait_for("> ")
    terminal.type("ab\n")
    terminal.wait_for("", n_chars=500)
    terminal.type("\x03")
    terminal.wait_for("\n> ")
    terminal.type("/length 6\n")
    assert terminal.wait_for("> ") == "/length 6\nlength 6\n> "
    terminal.type("\n")
    answer = terminal.wait_for("> ")
    assert len(answer) == len("\n" + 6 * "?" + "\n> ")
    assert set(answer) <= set(CHARACTERS + ">")
    # Again: a turn that ended by itself has left nothing behind either.
    terminal.type("/length 1000000000\n")
    terminal.wait_for("> ")
    terminal.type("\n")
    terminal.wait_for("", n_chars=500)
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("\n> ")
    terminal.type("/quit\n")
    assert terminal.wait() == 0
    assert "Traceback" not in terminal.screen


@unix_only
@pytest.mark.parametrize("is_in_a_turn", [False, True])
def test_a_terminated_program_ends(at_terminal: Any, is_in_a_turn: bool) -> None:
    # At the prompt it was taken for a Ctrl-C and only began the line anew.
    terminal = at_terminal("--temperature", "1", "-n", "1000000000")
    terminal.wait_for("> ")
    if is_in_a_turn:
        terminal.type("ab\n")
        terminal.wait_for("", n_chars=500)
    else:
        wait_until_it_waits(terminal.process)
    terminal.process.terminate()
    assert terminal.wait() == 130
    assert terminal.screen.endswith("Error: interrupted\r\n")


@unix_only
def test_ctrl_c_at_the_prompt_begins_the_line_anew(at_terminal: Any) -> None:
    terminal = at_terminal(*GREEDY)
    terminal.wait_for("> ")
    terminal.type("ddd")
    terminal.wait_for("ddd")
    wait_until_it_waits(terminal.process)
    terminal.type("\x03")
    terminal.wait_for("\n> ")
    terminal.type("abc\n")
    assert terminal.wait_for("> ") == f"abc\n{naive_text(NETWORK, WEIGHTS, 'abc', 9)}\n> "
    terminal.type("\x04")
    assert terminal.wait() == 0


@unix_only
def test_a_terminal_that_only_types_is_a_pipe(at_terminal: Any) -> None:
    terminal = at_terminal(*GREEDY, stdout=subprocess.PIPE)
    terminal.type("abc\n\x04")
    stdout, _ = terminal.process.communicate(timeout=60)
    assert stdout.decode() == naive_text(NETWORK, WEIGHTS, "abc", 9) + "\n"
    assert terminal.process.returncode == 0
