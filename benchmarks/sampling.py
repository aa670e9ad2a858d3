"""Ways to pick characters, compared by the text they write.

    charlstm train tinyshakespeare.txt --minutes 3
    python benchmarks/sampling.py macbeth:macbeth.txt tinyshakespeare:tinyshakespeare.txt

Each MODEL:TEXT is a model and the text that it was trained on, whose last
tenth it has not seen. For each way of picking, 24 texts of 1,500 characters are
written from windows of the text, and measured beside pieces of the held-out
part:

- real words: share of the words that stand in the text (held-out part
  included: so a real one that the model made up by itself counts);
- distinct trigrams: share of word trigrams that are not repeated within a text;
- in loops: share of characters that go on with a repetition of 20 or more;
- copied: longest span of a text that stands in the training part, median.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from training import describe_machine

from charlstm.copying import longest_copied_span
from charlstm.corpus import find_corpus
from charlstm.generation import write_texts
from charlstm.reading import read_text
from charlstm.sampling import SamplingConfig
from charlstm.stopping import StopRules
from charlstm.writer import Writer, load, make_random_seeds

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "sampling.json"
N_TEXTS, LENGTH = 24, 1_500
LOOP = 20
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

PLAIN: list[dict[str, Any]] = [{"temperature": t} for t in (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)]
WAYS: list[dict[str, Any]] = [
    *PLAIN,
    {"temperature": 0.0, "beams": 4},
    {"temperature": 0.0, "repetition_penalty": 2.0},
    {"temperature": 0.4, "repetition_penalty": 2.0},
    {"temperature": 0.5, "top_p": 0.9},
    {"temperature": 0.6, "top_p": 0.9},
    {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 2.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.6, "min_p": 0.05},
    {"temperature": 0.6, "min_p": 0.1},
    {"temperature": 0.7, "min_p": 0.1},
    {"temperature": 0.8, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "typical_p": 0.9},
    {"temperature": 0.7, "typical_p": 0.9},
    {"temperature": 1.0, "mirostat": 1.0},
    {"temperature": 1.0, "mirostat": 1.5},
    {"temperature": 1.0, "mirostat": 2.0},
]


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(text.lower())


def distinct_trigrams(text: str) -> float:
    """Return the share of word trigrams that come once."""
    words = words_of(text)
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / max(1, len(trigrams))


def share_in_loops(text: str) -> float:
    """Return the share of characters at which 20 or more stand for the second time."""
    seen: set[str] = set()
    n_looped = 0
    for end in range(LOOP, len(text) + 1):
        gram = text[end - LOOP : end]
        n_looped += gram in seen
        seen.add(gram)
    return n_looped / max(1, len(text) - LOOP + 1)


def measure(texts: list[str], *, known: set[str], writer: Writer, train_ids: Any) -> dict[str, Any]:
    """Measure some texts.

    Args:
        texts: What was written, or pieces of the held-out part.
        known: Real words.
        writer: The model, for its vocabulary.
        train_ids: What it was trained on.

    Returns:
        The four figures, as means (the last: the median) over the texts.
    """
    words = [word for text in texts for word in words_of(text)]
    copied = [
        longest_copied_span(writer.voice.vocabulary.encode(text), train_ids).length
        for text in texts
    ]
    return {
        "real_words": sum(word in known for word in words) / max(1, len(words)),
        "distinct_trigrams": statistics.mean(map(distinct_trigrams, texts)),
        "in_loops": statistics.mean(map(share_in_loops, texts)),
        "copied": statistics.median(copied),
    }


def compare(name: str, source: str, *, n_texts: int, ways: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure all ways of picking on one model.

    Args:
        name: The model.
        source: Its text.
        n_texts: Texts to write in each way.
        ways: Fields of `SamplingConfig`.

    Returns:
        Figures by what was done.
    """
    writer = load(name)
    text = read_text(find_corpus(source), options=writer.checkpoint.text_options)
    n_train = len(text) - int(len(text) * writer.checkpoint.config["training"]["val_fraction"])
    train, held_out = text[:n_train], text[n_train:]
    about = {
        "known": set(words_of(text)),
        "writer": writer,
        "train_ids": writer.voice.vocabulary.encode(train).astype(np.uint16),
    }
    starts = np.linspace(0, max(0, len(held_out) - LENGTH), n_texts).astype(int)
    rows = {"held-out text": measure([held_out[s : s + LENGTH] for s in starts], **about)}
    random_seeds = make_random_seeds(0, n_samples=n_texts)
    seeds = writer.seeds(None, random_seeds)
    for way in ways:
        n = 1 if way["temperature"] == 0 and way.get("beams", 1) > 1 else n_texts
        texts = [""] * n
        pieces = write_texts(
            writer.voice,
            seeds[:n],
            random_seeds=random_seeds[:n],
            sampling=SamplingConfig(**way),
            rules=StopRules(length=LENGTH),
        )
        for piece in pieces:
            texts[piece.sample] += piece.text
        rows[describe(way)] = measure(texts, **about)
        print_row(describe(way), rows[describe(way)])
    return rows


def describe(way: dict[str, Any]) -> str:
    """Write a way of picking as options."""
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in way.items())


def print_row(name: str, row: dict[str, Any]) -> None:
    """Print a line of a table."""
    print(
        f"| {name} | {100 * row['real_words']:.1f}% | {100 * row['distinct_trigrams']:.1f}% "
        f"| {100 * row['in_loops']:.1f}% | {row['copied']:.0f} |",
        flush=True,
    )


def main() -> None:
    """Measure, print a table for each model, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Ways to pick characters, compared.")
    parser.add_argument("models", nargs="*", default=["macbeth:macbeth.txt"], metavar="MODEL:TEXT")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    results = {}
    print(describe_machine())
    for pair in args.models:
        name, _, source = pair.rpartition(":")
        print(f"\n{name}\n\n| | real words | distinct trigrams | in loops | copied |")
        print("|---|---:|---:|---:|---:|")
        rows = compare(
            name,
            source,
            n_texts=2 if args.quick else N_TEXTS,
            ways=WAYS[:3] if args.quick else WAYS,
        )
        print_row("held-out text", rows["held-out text"])
        results[name] = rows
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "by_model": results}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
