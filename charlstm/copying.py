"""How much of a written text is copied: its longest span that stands in the corpus.

The corpus may be a thousand times larger than memory, so it is read once, from
its memory map, a piece at a time. A piece is only asked for spans *longer* than
the longest so far, which almost every piece answers with one look: windows of
that length are hashed, and none of them is among the hashes of the text's
windows. Where one is, the length is searched for within the piece, since a
span of length L holds one of length L - 1.

The hashes only pass over what cannot match: equal windows have equal hashes,
and what is left is compared character by character, the earliest first. So the
result is exact whatever the hashes do.

Which text a model was trained on is found here too; how a text is prepared
belongs to `corpus`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.corpus import (
    PREPARED_FOLDER,
    Progress,
    is_prepared,
    load_corpus,
    shipped_texts,
    source_argument,
)
from charlstm.errors import CorpusError, printable
from charlstm.preparing import id_dtype
from charlstm.reading import CorpusOptions, read_text, sha256_of
from charlstm.shards import Ids as CorpusIds
from charlstm.shards import release
from charlstm.sources import STDIN, corpus_name
from charlstm.storage import shown
from charlstm.vocabulary import Vocabulary

# Characters of a piece. Their hashes, 0.5 MB, stay in the cache: 2**20 of them
# took three times as long.
_PIECE = 1 << 16
_MAX_TABLE_BITS = 24
_N_CODE_POINTS = 0x110000
# Any odd number without a pattern: 2**64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

Ids = npt.NDArray[np.integer]
Hashes = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopiedSpan:
    """A stretch of a text that stands character for character in a corpus.

    Attributes:
        start: Where it begins in the text, in characters.
        length: Its characters; 0 if the two share none.
        corpus_position: Where it first stands in the corpus, in characters.
    """

    start: int = 0
    length: int = 0
    corpus_position: int = 0


def longest_copied_span(
    text_ids: Ids, corpus_ids: Ids | CorpusIds, *, progress: Progress | None = None
) -> CopiedSpan:
    """Find the longest span of a text that stands in a corpus.

    Of several spans of that length it is the one that comes first in the
    corpus, and of its places in the text the first. The corpus is read about
    once; the memory grows with the text, by less than 200 bytes a character,
    and not with the corpus.

    Args:
        text_ids: `(n,)` integer ids in [0, 0x110000).
        corpus_ids: `(N,)` unsigned ids of the same vocabulary, for instance a
            memory map.
        progress: Called with (characters looked at, characters in all).

    Returns:
        The span.

    Raises:
        ValueError: If an id of the text cannot be one.
    """
    n_text, n_corpus = len(text_ids), len(corpus_ids)
    if n_text and not 0 <= int(text_ids.min()) <= int(text_ids.max()) < _N_CODE_POINTS:
        raise ValueError("ids are numbers from 0 up, no more than there are characters")
    text = _as_string(text_ids)
    best = CopiedSpan()
    buffers = _Buffers()
    windows: _Windows | None = None
    start = 0
    while start + best.length < n_corpus and best.length < n_text:
        # Pieces overlap by a window, which should not be most of the work.
        n_starts = max(_PIECE, 2 * best.length)
        low, high, step = best.length, min(n_text, n_corpus - start) + 1, 1
        # There is a span of `low` characters and none of `high`: steps that
        # double until one goes too far, then halves of what is between.
        while low + 1 < high:
            length = min(low + step, (low + high) // 2)
            if windows is None or windows.length != length:
                windows = None  # not two at a time
                windows = _Windows(text_ids, text, length=length, buffers=buffers)
            piece = np.asarray(corpus_ids[start : start + n_starts + length - 1])
            place = windows.first_in(piece)
            if place is None:
                high = length
            else:
                position, text_start = place
                best = CopiedSpan(start=text_start, length=length, corpus_position=start + position)
                low = length
                step *= 2
        release(corpus_ids, start=start, stop=min(start + n_starts, n_corpus))
        start += n_starts
        if progress is not None and start < n_corpus:
            progress(start, n_corpus)
    if progress is not None:
        progress(n_corpus, n_corpus)
    return best


class _Windows:
    """All windows of one length of a text, to look others up in.

    Args:
        ids: `(n,)` ids of the text.
        text: The same, an id a character.
        length: Characters of a window, in [1, n].
        buffers: To compute hashes in.
    """

    def __init__(self, ids: Ids, text: str, *, length: int, buffers: _Buffers) -> None:
        self.text = text
        self.length = length
        self.buffers = buffers
        hashes, spare = _window_hashes(ids, length, buffers)
        self.hashes = np.sort(hashes)
        # Looking into a table that stays in the cache is ten times faster than
        # searching; at least 15 of 16 windows that are not here end there.
        n_bits = min(len(ids).bit_length() + 6, _MAX_TABLE_BITS)
        self.shift = np.uint64(64 - n_bits)
        self.is_taken = np.zeros(1 << n_bits, dtype=bool)
        self.is_taken[self._slots(hashes, spare)] = True

    def first_in(self, ids: Ids) -> tuple[int, int] | None:
        """Find the first window of other ids that is in the text.

        Args:
            ids: `(time,)` ids of a piece of the corpus.

        Returns:
            Where it begins in the piece, and where first in the text; None if
            there is no such window.
        """
        if len(ids) < self.length:
            return None
        hashes, spare = _window_hashes(ids, self.length, self.buffers)  # (time - length + 1,)
        positions = np.flatnonzero(self.is_taken[self._slots(hashes, spare)])
        wanted = hashes[positions]
        nearest = np.searchsorted(self.hashes, wanted)
        nearest[nearest == len(self.hashes)] = 0
        for position in positions[self.hashes[nearest] == wanted]:
            window = ids[position : position + self.length]
            if int(window.max()) >= _N_CODE_POINTS:
                continue  # a damaged file may hold any number
            # Linear in the text, whatever repeats in it (Crochemore & Perrin
            # 1991). The first window nearly always is a true match.
            text_start = self.text.find(_as_string(window))
            if text_start >= 0:
                return int(position), text_start
        return None

    def _slots(self, hashes: Hashes, spare: Hashes) -> npt.NDArray[np.int64]:
        return np.right_shift(hashes, self.shift, out=spare).view(np.int64)


class _Buffers:
    """Two arrays that serve again and again.

    New ones for each piece may go back to the system each time, which then
    takes twice as long to clear them as hashing takes.
    """

    def __init__(self) -> None:
        self.both: Hashes = np.empty((2, 0), dtype=np.uint64)

    def of(self, size: int) -> tuple[Hashes, Hashes]:
        if self.both.shape[1] < size:
            self.both = np.empty((2, size), dtype=np.uint64)
        return self.both[0, :size], self.both[1, :size]


def _window_hashes(ids: Ids, length: int, buffers: _Buffers) -> tuple[Hashes, Hashes]:
    """Hash every window of a length.

    Windows of twice the length are two of half of it, and the last two may
    overlap: one round over the ids for each doubling. Polynomials modulo 2**64
    would take one round in all, but give equal hashes to a Thue-Morse string
    and its inverse; the shift prevents that.

    Args:
        ids: `(time,)` integer ids, at least `length` of them.
        length: Characters of a window, at least 1.
        buffers: Where they are computed.

    Returns:
        `(time - length + 1,)` uint64, of which the highest bits vary the most,
        and an array of the same shape to work in; both until the next call.
    """
    hashes, spare = buffers.of(len(ids))
    np.copyto(hashes, ids, casting="unsafe")
    hashes *= _MULTIPLIER  # wraps around, as everything here
    width = 1
    while width < length:
        offset = min(width, length - width)
        left, right, joined = hashes[:-offset], hashes[offset:], spare[:-offset]
        np.multiply(left, _MULTIPLIER, out=joined)
        joined += right
        joined ^= np.right_shift(joined, _HALF, out=left)  # left has served
        hashes, spare = joined, left
        width += offset
    return hashes, spare


def _as_string(ids: Ids) -> str:
    """Make a string of an id a character, for the fast exact search it has."""
    return ids.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


# --- the text that a model was trained on ----------------------------------------


def find_corpus_ids(about: Mapping[str, Any], *, vocabulary: Vocabulary) -> CorpusIds:
    """Find the text that a model was trained on.

    It is looked for where the model remembers it, then in every folder of
    `prepared/`, then among the texts that ship with the package. What is found
    is the same source, read the same way, with the same characters.

    Args:
        about: What the model's `config.json` has under `corpus`: `name`,
            `sha256`, `options` and perhaps `path`.
        vocabulary: The model's.

    Returns:
        `(characters,)` ids of that vocabulary; a memory map of a prepared
        text, an array of a shipped one.

    Raises:
        CorpusError: If the text is not here, is another or is damaged.
    """
    name = str(about["name"])
    options = CorpusOptions(**about["options"])
    usual = Path(PREPARED_FOLDER) / name
    stored = Path(about.get("path") or usual)
    why = f"{shown(stored)} is not there"
    for folder in (stored, usual, *_prepared_folders()):
        if not _is_prepared(folder):
            continue
        try:
            corpus = load_corpus(folder)
            if corpus.sha256 != about["sha256"]:
                raise CorpusError(
                    f"{shown(folder)} is another text "
                    f"(sha256 {corpus.sha256[:12]}…, not {about['sha256'][:12]}…)"
                )
            _check_options(corpus.options, options, folder)
            _check_vocabulary(corpus.vocabulary, vocabulary, folder)
        except CorpusError as error:
            if folder in (stored, usual):  # in others it is no surprise
                why = error.message
        else:
            return corpus.ids
    for path in shipped_texts().values():
        if sha256_of(path) == about["sha256"]:
            text = read_text(path, options=options)
            own = Vocabulary.most_frequent(Counter(text), limit=options.max_vocab)
            _check_vocabulary(own, vocabulary, path)
            return vocabulary.encode(text).astype(id_dtype(vocabulary.n_ids))
    raise CorpusError(
        f"the text {printable(name)} that the model was trained on is needed: {why}",
        hint=f"prepare it again: {_prepare_command(about, options)}",
    )


def _prepared_folders() -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(Path(PREPARED_FOLDER).iterdir())
    return []


def _is_prepared(folder: Path) -> bool:
    # The path comes from a file: it may be too long, or hold a NUL.
    with contextlib.suppress(OSError, ValueError):
        return is_prepared(folder)
    return False


def _check_options(has: CorpusOptions, wanted: CorpusOptions, folder: Path) -> None:
    if differences := has.differences(wanted):
        raise CorpusError(f"{shown(folder)} was prepared {differences[0]}")


def _check_vocabulary(has: Vocabulary, wanted: Vocabulary, path: Path) -> None:
    if has != wanted:
        raise CorpusError(f"{shown(path)} has not the characters that the model knows")


def _prepare_command(about: Mapping[str, Any], options: CorpusOptions) -> str:
    """Write the command that prepares a model's text as it was."""
    name, source = printable(str(about["name"])), source_argument(about)
    words = ["charlstm", "prepare", "TEXTS" if source is None else printable(source)]
    if source is None or corpus_name(None if source == STDIN else Path(source)) != about["name"]:
        words += ["--name", name]
    default = CorpusOptions()
    for field in dataclasses.fields(CorpusOptions):
        value = getattr(options, field.name)
        if value != getattr(default, field.name):
            words.append("--" + field.name.replace("_", "-"))
            words += [] if value is True else [str(value)]
    if _is_prepared(Path(PREPARED_FOLDER) / name):  # by another text: it stays
        words += ["--output", f"{PREPARED_FOLDER}/{name}-{about['sha256'][:8]}"]
    return " ".join(map(shlex.quote, words)) + (" < TEXT" if source == STDIN else "")
