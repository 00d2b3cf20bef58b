"""The body of a GPT: where layers and config meet."""

import math
from collections.abc import Callable

import numpy as np

from numgpt.config import GPTConfig
from numgpt.layers import (BLOCKS, KV, Dropout, Embedding, Layer, LayerNorm, LearnedPositions, Recompute,
                           SinusoidalPositions)


class Body(Layer):
    """Token ids to what the model makes of them: all of a GPT but its head. Other heads and losses stand on it.

    ids (B, T) integers -> x (B, T, C)

    Forward   x = dropout(positions(embedding(ids)))
              for block in blocks:
                  x = block(x)
              -- pre-norm lets the stream grow; this brings it back to size (post-norm has no such norm)
              x = norm(x)
    Backward  dx = norm.backward(dx)
              for block in reversed(blocks):
                  dx = block.backward(dx)
              -- ids are integers: there is nothing to differentiate
              embedding.backward(positions.backward(dropout.backward(dx)))
    Saved     what each part saved, in order

    With segments (B, T), the example that each position of a row belongs to, each is read as if it were alone: positions
    begin anew, and attention stays inside it. A run of equal numbers is one; the same number again is another.
    """

    def __init__(self, config: GPTConfig, *, rng=None, dtype=np.float32, recompute: bool = False):
        c, rng = config, np.random.default_rng(rng)
        weights = dict(rng=rng, dtype=dtype)
        std_positions = c.std if c.std_positions is None else c.std_positions
        std_residual = c.std / math.sqrt(2 * c.n_layer) if c.std_residual is None else c.std_residual
        self.embedding = Embedding(c.n_vocab, c.n_embd, std=c.std, **weights)
        self.positions = (LearnedPositions(c.n_ctx, c.n_embd, std=std_positions, **weights)
                          if c.positions == "learned" else SinusoidalPositions(c.n_ctx, c.n_embd))
        self.dropout = Dropout(c.dropout_embd)
        self.blocks = []
        for i in range(c.n_layer):
            block = BLOCKS[c.norm](
                c.n_embd, c.n_head, n_hidden=c.n_hidden, head_size=c.head_size, activation=c.activation, bias=c.bias,
                eps=c.norm_eps, scale=c.scale(i), window=c.window_of(i), dropout_attn=c.dropout_attn,
                dropout_resid=c.dropout_resid, std=c.std, out_std=std_residual, **weights)
            self.blocks.append(Recompute(block) if recompute else block)
        self.norm = LayerNorm(c.n_embd, bias=c.bias, eps=c.norm_eps, dtype=dtype) if c.norm == "pre" else None

    def forward(self, ids, *, rng: np.random.Generator | None = None, segments=None):
        x, saved_embedding = self.embedding.forward(_sequences(ids))
        x, saved_positions = self.positions.forward(x, segments=segments)
        x, saved_dropout = self.dropout.forward(x, rng=rng)
        saved_blocks = []
        for block in self.blocks:
            x, saved = block.forward(x, rng=rng, segments=segments)
            saved_blocks.append(saved)
        x, saved_norm = (x, None) if self.norm is None else self.norm.forward(x)
        return x, (saved_embedding, saved_positions, saved_dropout, saved_blocks, saved_norm)

    def __call__(self, ids, *, rng: np.random.Generator | None = None, kv: list[KV] | None = None,
                 segments=None):
        """The same with nothing kept, so that it needs the memory of one block.

        kv: a decode store for each block, which the ids are added to and go on from.
        """
        x = self.positions(self.embedding(_sequences(ids)), kv=kv and kv[0], segments=segments)
        x = self.dropout(x, rng=rng)
        for i, block in enumerate(self.blocks):
            x = block(x, rng=rng, kv=kv and kv[i], segments=segments)
        return x if self.norm is None else self.norm(x)

    def backward(self, dx, saved, *, finished: Callable[[Layer], None] = lambda layer: None):
        """finished: called with each part when its backward is done."""
        saved_embedding, saved_positions, saved_dropout, saved_blocks, saved_norm = saved
        if self.norm is not None:
            dx = self.norm.backward(dx, saved_norm)
            finished(self.norm)
        for block, saved_block in zip(reversed(self.blocks), reversed(saved_blocks), strict=True):
            dx = block.backward(dx, saved_block)
            finished(block)
        dx = self.dropout.backward(dx, saved_dropout)
        dx = self.positions.backward(dx, saved_positions)
        finished(self.positions)
        self.embedding.backward(dx, saved_embedding)
        finished(self.embedding)
        return None  # ids are integers: there is nothing to differentiate


def _sequences(ids) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(f"token ids must be (B, T), a batch of sequences; got an array of shape {ids.shape}"
                         + (": ids[None] is a batch of one" if ids.ndim == 1 else ""))
    return ids
