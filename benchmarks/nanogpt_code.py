"""A small character transformer in PyTorch, trained by nanoGPT's CPU recipe.

The rival of `nanogpt.py`, written anew from the published settings of nanoGPT
(Karpathy, 2022) for a laptop without a GPU: 4 layers, 4 heads, width 128,
context 64, batch 12, 2,000 steps of AdamW, no dropout; the learning rate warms
up over 100 steps to 1e-3 and falls by a cosine to 1e-4; every 250 steps the
loss of 20 random batches of either part is estimated. Its published loss on
the held-out part of tiny Shakespeare is 1.88.

    python benchmarks/nanogpt_code.py tinyshakespeare.txt
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, CONTEXT, BATCH_SIZE = 4, 4, 128, 64, 12
PEAK_RATE, LAST_RATE, WARM_UP, EVALUATE_EVERY, EVALUATION_BATCHES = 1e-3, 1e-4, 100, 250, 20
WEIGHT_DECAY, BETAS, CLIP_NORM = 0.1, (0.9, 0.99), 1.0
RANDOM_SEED = 1337


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, normalised before each."""

    def __init__(self) -> None:
        """Make the layers, without biases."""
        super().__init__()
        self.norm_1, self.norm_2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.joined = nn.Linear(WIDTH, WIDTH, bias=False)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take and return `(batch, time, width)`."""
        batch, length, _ = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (batch, head, time, width / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.joined(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.narrow(functional.gelu(self.wide(self.norm_2(x))))


class Transformer(nn.Module):
    """Characters and positions in, logits out; the two embeddings' weights tied."""

    def __init__(self, vocabulary_size: int) -> None:
        """Make and initialise the layers as GPT-2 does."""
        super().__init__()
        self.characters = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_last = name.endswith(("joined.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if is_last else 0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Take `(batch, time)` ids, return `(batch, time, vocab)` logits."""
        x = self.characters(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.characters.weight)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean nats/char."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def random_batch(ids: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut random windows, `(batch, context)`, and what comes one character later."""
    starts = rng.integers(len(ids) - CONTEXT, size=BATCH_SIZE)
    rows = torch.from_numpy(ids[starts[:, None] + np.arange(CONTEXT + 1)])
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def estimate_loss(model: nn.Module, ids: np.ndarray, rng: np.random.Generator) -> float:
    """Return the mean nats/char of 20 random batches."""
    losses = []
    for _ in range(EVALUATION_BATCHES):
        inputs, targets = random_batch(ids, rng)
        losses.append(cross_entropy(model(inputs), targets).item())
    return float(np.mean(losses))


@torch.no_grad()
def whole_loss(model: nn.Module, ids: np.ndarray) -> float:
    """Return nats/char over a whole text, each scored character with 32 or more before it."""
    half = CONTEXT // 2
    n_windows = (len(ids) - 1 - half) // half
    starts = np.arange(n_windows)[:, None] * half
    rows = torch.from_numpy(ids[starts + np.arange(CONTEXT + 1)])
    losses = [
        cross_entropy(model(chunk[:, :-1])[:, half:], chunk[:, half + 1 :]).item() * len(chunk)
        for chunk in rows.split(256)
    ]
    return sum(losses) / n_windows


def rate_at(step: int, steps: int) -> float:
    """Warm up linearly, then fall by half a cosine."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / (WARM_UP + 1)
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LAST_RATE + 0.5 * (1 + math.cos(math.pi * done)) * (PEAK_RATE - LAST_RATE)


def main() -> None:
    """Train, and print the losses and the seconds as one line of JSON."""
    parser = argparse.ArgumentParser(description="nanoGPT's CPU recipe.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--started", type=float, default=time.time())
    args = parser.parse_args()
    torch.manual_seed(RANDOM_SEED)
    rng = np.random.default_rng(RANDOM_SEED)
    text = args.text.read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = np.array([characters.index(c) for c in text], dtype=np.int64)
    n_train = int(0.9 * len(ids))
    train_ids, val_ids = ids[:n_train], ids[n_train:]
    model = Transformer(len(characters))
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim == 2], "weight_decay": WEIGHT_DECAY},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=BETAS)
    estimates = []
    for step in range(args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, args.steps)
        if step % EVALUATE_EVERY == 0:
            train_loss = estimate_loss(model, train_ids, rng)
            estimates.append((step, train_loss, estimate_loss(model, val_ids, rng)))
        inputs, targets = random_batch(train_ids, rng)
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        loss.item()  # it prints every step's loss
    seconds = time.time() - args.started
    numbers = {
        "seconds": seconds,
        "parameters": sum(w.numel() for w in weights) - CONTEXT * WIDTH,
        "estimates": estimates,
        "estimated_loss": min(val for _, _, val in estimates),
        "loss": whole_loss(model, val_ids),
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
