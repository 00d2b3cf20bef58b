"""More tokens for a model: the old ones' logits stay, to the bit where the head allows it."""

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.layers import Recompute
from numgpt.tuning.growth import grown
from numgpt.verify import cases

V = 13
IDS = np.random.default_rng(1).integers(0, V, (2, 7))


def gpt(dtype=np.float64, recompute=False, **changes) -> GPT:
    config = GPTConfig(n_vocab=V, n_ctx=8, n_layer=2, n_head=3, n_embd=15, std=0.05, **changes)
    return cases.order_one(GPT(config, dtype=dtype, recompute=recompute), np.random.default_rng(0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_bias", [True, False])
def test_old_tokens_are_read_to_the_bit_and_their_logits_are_the_same_products(tied, head_bias):
    old = gpt(tied=tied, head_bias=head_bias)
    new = grown(old, V + 3)
    assert np.array_equal(new.body(IDS), old.body(IDS))
    logits = new.logits(IDS)
    assert logits.shape == (2, 7, V + 3)
    # a product of 15 terms, which a BLAS may add in another order in a wider matrix: 15 eps of their sizes
    bound = 15 * np.finfo(float).eps * np.abs(old.body(IDS)).max() * np.abs(old.head.matrix).max() * 15
    assert np.abs(logits[..., :V] - old.logits(IDS)).max() <= bound
    assert np.array_equal(new.head.matrix[:, :V], old.head.matrix)
    if head_bias:
        assert np.array_equal(new.head.bias.value[:V], old.head.bias.value) and not new.head.bias.value[V:].any()


def test_new_rows_are_drawn_from_the_seed_with_the_model_s_own_deviation():
    rows = [grown(gpt(), 5000, seed=seed).body.embedding.table.value[V:] for seed in (0, 0, 1)]
    assert np.array_equal(rows[0], rows[1]) and not np.array_equal(rows[0], rows[2])
    assert rows[0].std() == pytest.approx(0.05, rel=0.02) and abs(rows[0].mean()) < 0.001  # 75,000 numbers


def test_the_old_model_is_left_alone_and_the_new_is_of_its_kind():
    old = gpt(np.float32, recompute=True, dropout_resid=0.2)
    before = old.values.copy()
    new = grown(old, V)
    new.values += 1
    assert np.array_equal(old.values, before)
    assert new.values.dtype == np.float32 and new.config == old.config and all(isinstance(block, Recompute) for block in new.body.blocks)
    with pytest.raises(ValueError, match="the model has 13 tokens already; got 12"):
        grown(old, V - 1)
