"""Layers with something missing have right gradients, and what the ablation says of them is what it measured."""

import numpy as np
import pytest
from test_docstrings import Part, names, near, section

from numgpt import GPT, GPTConfig
from numgpt.gradcheck import check
from numgpt.layers import CausalAttention, PreNormBlock
from numgpt.teach.without import REMOVERS, NoSkipBlock, Through, UnmaskedAttention, remove
from numgpt.verify import cases

B, T, H, D, C, F, V = 2, 5, 3, 2, 7, 4, 11
RNG = np.random.default_rng


def drawn(layer):
    return cases.order_one(layer, RNG(0))


def x(*shape):
    return RNG(1).standard_normal(shape)


# -- the layers


def test_a_block_without_its_skips_has_right_gradients():
    block = drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F)))
    check(block, x(B, T, C)).assert_ok()


def test_a_block_without_its_skips_drops_the_same_numbers_on_both_ways():
    block = drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F, dropout_attn=0.2, dropout_resid=0.3)))
    check(lambda x_: block.forward(x_, rng=RNG(3))[0], x(B, T, C),
          backward=lambda dy, x_: block.backward(dy, block.forward(x_, rng=RNG(3))[1])).assert_ok()


@pytest.mark.parametrize("tile", [2, 64])
def test_attention_without_a_mask_has_right_gradients(tile):
    check(UnmaskedAttention(scale=0.4, tile=tile), *(x(B, H, T, D) * (1 + i) for i in range(3))).assert_ok()


def test_attention_without_a_mask_sees_the_future_and_at_the_last_position_what_the_masked_sees():
    q, k, v = (x(B, H, T, D) * (1 + i) for i in range(3))
    masked, unmasked = CausalAttention(scale=0.4, tile=2), UnmaskedAttention(scale=0.4, tile=2)
    last = v.copy()
    last[:, :, -1] += 1
    assert np.array_equal(masked(q, k, last)[:, :, :-1], masked(q, k, v)[:, :, :-1])
    assert (unmasked(q, k, last) != unmasked(q, k, v)).all()
    assert near(unmasked(q, k, v)[:, :, -1], masked(q, k, v)[:, :, -1])


def test_what_lets_everything_through_does_so_both_ways():
    check(Through(), x(B, T, C)).assert_ok()
    assert np.array_equal(Through()(x(B, T, C)), x(B, T, C))


@pytest.mark.parametrize("layer, inputs", [
    (Through(), {"x": x(B, T, C)}), (UnmaskedAttention(scale=0.4, tile=2), {name: x(B, H, T, D) * (1 + i) for i, name in enumerate("qkv")}),
    (drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F))), {"x": x(B, T, C)})], ids=lambda item: type(item).__name__)
def test_the_derivation_in_the_docstring_is_what_the_layer_computes(layer, inputs):
    y, saved = layer.forward(*inputs.values())
    dy = RNG(2).standard_normal(y.shape)
    result = layer.backward(dy, saved)
    scope = names(layer) | inputs | {"dy": dy}
    scope |= {name: Part(getattr(layer, name)) for name in ("norm1", "attention", "norm2", "ffn") if hasattr(layer, name)}
    exec(section(layer, "Forward"), scope)
    exec(section(layer, "Backward"), scope)
    assert near(scope["y"], y)
    for name, d in zip(inputs, result if isinstance(result, tuple) else (result,)):
        assert near(scope[f"d{name}"], d), name


@pytest.mark.parametrize("part", REMOVERS)
def test_a_model_without_a_part_has_right_gradients_and_keeps_its_other_weights(part):
    config = GPTConfig(n_vocab=V, n_ctx=T, n_layer=2, n_head=2, n_embd=4, n_hidden=3)
    whole, model = GPT(config, seed=0, dtype=np.float64), GPT(config, seed=0, dtype=np.float64)
    remove(model, part)
    own = dict(whole.named_params())
    assert all(np.array_equal(param.value, own[name].value) for name, param in model.named_params())
    ids = RNG(0).integers(0, V, (2, 3, T))
    assert model(*ids) != whole(*ids)
    check(drawn(model), *ids).assert_ok()


def test_a_part_that_no_model_has_is_refused():
    with pytest.raises(ValueError, match="one of residual, norm, positions, mask; got 'head'"):
        remove(GPT(GPTConfig.preset("nano")), "head")
