"""Examples packed in one row: each is read as if it were alone."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from numgpt import GPT, GPTConfig
from numgpt import layers as L
from numgpt.layers.segments import places
from numgpt.teach.derivation import Derivation, execute, scope
from numgpt.verify import cases, mutants

N_CTX, V = 12, 13
SMALL = GPTConfig(n_vocab=V, n_ctx=N_CTX, n_layer=2, n_head=3, n_embd=15, n_hidden=17, head_size=7)
# Products of a packed row are summed in another order, with zeros in between: that is some ten roundings, of 1e-16 of
# the largest number each, and in two layers not a hundred. What is wrong is wrong by 1e-2 or more.
BOUND = 1e-13


def rng(seed=0):
    return np.random.default_rng(seed)


def near(a, b):
    return np.abs(np.subtract(a, b)).max(initial=0) <= BOUND * max(np.abs(b).max(initial=0), 1e-300)


def model_of(tile=5, recompute=False, **changes):
    model = cases.order_one(GPT(SMALL.change(**changes), dtype=np.float64, recompute=recompute), rng(1))
    for block in model.body.blocks:
        getattr(block, "layer", block).attention.attention.tile = tile
    return model


def numbered(lengths):
    """The segments of a row of examples so long."""
    return np.repeat(rng(len(lengths)).permutation(len(lengths)), lengths)


def alone(segments):
    """(row, its positions) of each example of a batch."""
    for b, row in enumerate(segments):
        cuts = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        yield from ((b, slice(start, stop)) for start, stop in zip(cuts, cuts[1:]))


rows = st.lists(st.integers(1, 7), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) <= N_CTX)


def body_s(model, ids, dx, segments=None):
    """What comes out of the body, and the gradients."""
    model.zero_grad()
    x, saved = model.body.forward(ids, segments=segments)
    assert np.array_equal(model.body(ids, segments=segments), x)
    model.body.backward(dx, saved)
    return x, model.grads.copy()


def one_by_one(model, ids, dx, segments):
    """The same, each example by itself."""
    x, grads = np.empty_like(dx), 0
    for b, at in alone(segments):
        x[b:b + 1, at], own = body_s(model, ids[b:b + 1, at], dx[b:b + 1, at])
        grads = grads + own
    return x, grads


# -- places


@pytest.mark.parametrize("segments, found", [
    ([[3, 3, 3, 7, 7, 0], [5, 5, 5, 5, 5, 5]], [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]),
    ([[1, 1, 2, 1, 1, 1]], [[0, 1, 0, 0, 1, 2]]), ([[-1, 0, 1, 2, 3, 4]], [[0] * 6]),
    (np.zeros((2, 0), int), np.zeros((2, 0)))])
def test_places_begin_anew_with_each_run_of_a_number_also_of_one_that_was_there_before(segments, found):
    assert np.array_equal(places(segments, np.shape(segments)), found)


# -- packed and alone


@given(rows, rows, st.sampled_from(["pre", "post"]), st.sampled_from(["learned", "sinusoidal"]),
       st.sampled_from([None, 1, 3, 20]), st.sampled_from([1, 2, 5, 64]), st.booleans(), st.integers(0, 1000))
@example([4, 8], [1] * 12, "pre", "learned", None, 4, True, 0)
def test_a_packed_row_gives_what_each_example_gives_alone_and_the_sum_of_their_gradients(
        one, other, norm, positions, window, tile, recompute, seed):
    other = [*other, *[1] * max(0, sum(one) - sum(other))]
    segments = np.stack([numbered(one), numbered(other)[:sum(one)]])
    model = model_of(tile, recompute, norm=norm, positions=positions, window=window)
    ids, dx = rng(seed).integers(0, V, segments.shape), rng(seed).standard_normal((*segments.shape, SMALL.n_embd))
    assert all(map(near, body_s(model, ids, dx, segments), one_by_one(model, ids, dx, segments)))


@pytest.mark.parametrize("form", [form for slug in mutants.names("tuning") if slug.startswith("packed-")
                                  for form in mutants.forms(slug)], ids=lambda form: form.story)
def test_each_mistake_of_packing_shows_beside_the_examples_alone(form):
    model, segments = model_of(), np.stack([numbered([4, 8]), numbered([3, 2, 7])])
    ids, dx = rng().integers(0, V, segments.shape), rng().standard_normal((*segments.shape, SMALL.n_embd))
    with mutants.apply(form):
        found = body_s(model, ids, dx, segments)
    far = [np.abs(a - b).max() > 1e-2 * np.abs(b).max() for a, b in zip(found, one_by_one(model, ids, dx, segments))]
    assert far == [form.slug != "packed-places-backward", True]


def test_a_model_s_loss_over_packed_rows_is_the_mean_over_the_examples_targets():
    model, segments = model_of(), np.stack([numbered([3, 4, 5]), numbered([7, 4, 1])])
    ids, targets = rng().integers(0, V, (2, 2, 12))
    targets[0, :2], targets[1, 7:9] = -100, -100
    count = int((targets != -100).sum())
    loss, saved = model.forward(ids, targets, segments)
    model.backward(saved)
    grads, total, logits = model.grads.copy(), 0.0, model.logits(ids, segments)
    model.zero_grad()
    for b, at in alone(segments):
        own, saved = model.forward(ids[b:b + 1, at], targets[b:b + 1, at], count=count)
        model.backward(saved)
        total += own
        assert near(logits[b:b + 1, at], model.logits(ids[b:b + 1, at]))
    assert near(loss, total) and near(grads, model.grads)
    assert loss == model(ids, targets, segments) != model(ids, targets)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("norm, positions, recompute", [("pre", "learned", False), ("post", "sinusoidal", True)])
@pytest.mark.parametrize("tile", [2, 64])
def test_one_segment_is_none_to_the_bit(window, norm, positions, recompute, tile):
    model = model_of(tile, recompute, window=window, norm=norm, positions=positions,
                     dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
    ids, targets = rng().integers(0, V, (2, 3, 11))
    found = []
    for segments in (None, np.full((3, 11), 4), np.arange(3)[:, None] + np.zeros((3, 11), int)):
        model.zero_grad()
        loss, saved = model.forward(ids, targets, segments, rng=rng(7))
        model.backward(saved)
        found.append((loss, *model.grads, *model.logits(ids, segments).flat))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", ["pre", "post"])
@pytest.mark.parametrize("tile", [2, 64])
@given(rows.filter(lambda lengths: len(lengths) > 1), st.data())
def test_what_changes_in_one_example_changes_no_bit_of_another(kind, tile, lengths, data):
    block = cases.order_one(L.BLOCKS[kind](15, 3, n_hidden=17, tile=tile), rng(2))
    segments, chosen = numbered(lengths)[None], data.draw(st.integers(0, len(lengths) - 1))
    x, dy = rng(3).standard_normal((2, 1, segments.size, 15))
    inside = segments[0] == chosen
    x2, dy2 = x.copy(), dy.copy()
    x2[:, inside], dy2[:, inside] = 100 * x[:, inside] + 1, -dy[:, inside]
    (y, dx), (y2, dx2) = (through(block, *each, segments=segments) for each in ((x, dy), (x2, dy2)))
    assert np.array_equal(y[:, ~inside], y2[:, ~inside]) and np.array_equal(dx[:, ~inside], dx2[:, ~inside])
    assert (y[:, inside] != y2[:, inside]).any(-1).all() and (dx[:, inside] != dx2[:, inside]).any(-1).all()


def through(layer, x, dy, **options):
    y, saved = layer.forward(x, **options)
    return y, layer.backward(dy, saved)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("tile", [1, 3, 64])
def test_the_derivation_holds_with_a_window_for_each_position(window, tile):
    attention = L.CausalAttention(scale=0.4, window=window, tile=tile)
    segments = [[0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 0]]
    q, k, v, dy = rng().standard_normal((4, 2, 3, 7, 5))
    y, saved = attention.forward(q, k, v, segments=segments)
    derivation, names = Derivation.of(attention), scope(attention) | {"q": q, "k": k, "v": v, "dy": dy}
    names["window"] = np.minimum(names["window"], places(segments, (2, 7)) + 1)[:, None, :, None]
    execute(derivation.forward, names)
    execute(derivation.backward, names)
    for own, name in zip((y, *attention.backward(dy, saved)), ("y", "dq", "dk", "dv")):
        assert near(own, names[name])


def test_keys_before_all_segments_of_a_tile_are_not_looked_at():
    attention, segments = L.CausalAttention(scale=1.0, tile=4), np.stack([numbered([4, 3, 5]), numbered([2, 2, 8])])
    reach = attention._reach(segments, 2, 12, 12)
    assert [(keys.start, keys.stop) for _, keys, _ in attention._tiles(12, 12, reach)] == [(0, 4), (4, 8), (4, 12)]


# -- what does not go


@pytest.mark.parametrize("segments, error, says", [
    (np.zeros((2, 6), int), ValueError, r"segments must have the shape \(2, 7\), the example of each position; got \(2, 6\)"),
    (np.zeros(7, int), ValueError, r"must have the shape \(2, 7\)"),
    (np.zeros((2, 7)), TypeError, "segments must be integers; got float64")])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_segments_that_do_not_fit_are_refused_with_a_sentence(positions, segments, error, says):
    model, ids = model_of(positions=positions), np.zeros((2, 7), int)
    for call in (lambda: model.forward(ids, ids, segments), lambda: model.logits(ids, segments),
                 lambda: model.body.blocks[0](np.zeros((2, 7, 15)), segments=segments)):
        with pytest.raises(error, match=says):
            call()


def test_segments_and_a_decode_store_do_not_go_together():
    model, ids = model_of(), np.zeros((2, 7), int)
    store = model.decode_store(2)
    x, both = np.zeros((2, 7, 15)), {"kv": store[0], "segments": ids}
    for call in (lambda: model.body(ids, kv=store, segments=ids), lambda: model.body.positions(x, **both),
                 lambda: model.body.blocks[0](x, **both)):
        with pytest.raises(ValueError, match="one example a row, and segments say that a row has several: leave out one"):
            call()
    assert store[0].length == 0
    with pytest.raises(ValueError, match="of positions that are queries and keys alike; got 3 queries and 7 keys"):
        L.CausalAttention(scale=1.0)(np.zeros((2, 1, 3, 5)), *np.zeros((2, 2, 1, 7, 5)), segments=ids)


# -- torch


@pytest.mark.verify
@pytest.mark.parametrize("window", [None, 3])
@given(rows, st.sampled_from([1, 3, 64]), st.integers(0, 1000))
def test_attention_is_torchs_with_a_block_diagonal_mask(window, lengths, tile, seed):
    import torch
    segments = np.stack([numbered(lengths), np.sort(numbered(lengths))])
    T = segments.shape[1]
    q, k, v, dy = rng(seed).standard_normal((4, 2, 3, T, 5))
    attention = L.CausalAttention(scale=0.4, window=window, tile=tile)
    y, saved = attention.forward(q, k, v, segments=segments)
    back = torch.arange(T)[:, None] - torch.arange(T)
    ours = torch.from_numpy(segments)
    seen = (ours[:, :, None] == ours[:, None]) & (back >= 0) & (back < (window or T))
    q_, k_, v_ = (torch.from_numpy(a).requires_grad_() for a in (q, k, v))
    y_ = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, attn_mask=seen[:, None], scale=0.4)
    y_.backward(torch.from_numpy(dy))
    for own, other in zip((y, *attention.backward(dy, saved)), (y_.detach(), q_.grad, k_.grad, v_.grad)):
        assert np.abs(own - other.numpy()).max() <= 1e-11
