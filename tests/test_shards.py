"""One batch on several threads: the gradient is the whole batch's, and its bits are the settings', not the machine's."""

import copy
import gc
import time
import tracemalloc

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.layers import Dropout, Linear, Param
from numgpt.threads import Pool, blas_threads
from numgpt.training.shards import Shards, Sum
from numgpt.verify import cases

SIZES = dict(n_vocab=13, n_ctx=11, n_layer=2, n_head=3, n_embd=15, n_hidden=17)
DROPOUT = dict(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3)
B, T = 5, 7

# Loss and gradient are sums over the rows, in another order where they come in parts: a sum of n terms differs by at
# most n eps of the sum of their sizes, here 35 positions and 2.2e-16. Measured: 5e-16 of an array's largest number.
TOLERANCE = 1e-13


def model_of(seed=0, dtype=np.float64, **changes) -> GPT:
    return cases.order_one(GPT(GPTConfig(**{**SIZES, **changes}), dtype=dtype), np.random.default_rng(seed))


def batch(seed=0, B=B):
    """Each row has another number of targets that count: 6, 0, 3, 7, 4."""
    sizes, rng = cases.Sizes(B=B, T=T, V=SIZES["n_vocab"]), np.random.default_rng((seed, 1))
    ids, targets = cases.ids_of(rng, sizes), rng.integers(0, SIZES["n_vocab"], (B, T))
    for row, n in zip(targets, (1, 7, 4, 0, 3)):
        row[T - n:] = -100
    return ids, targets


def whole(model, ids, targets):
    """Loss and gradients of the batch in one piece, by the model alone."""
    model.zero_grad()
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    return float(loss), gradients(model)


def gradients(model) -> dict:
    return {name: param.grad.copy() for name, param in model.named_params()}


def of_shards(model, n, *, threads=1, pieces=1, key=None, of=None) -> list:
    """Loss and gradient of one batch, by so many shards on so many threads."""
    with Shards(model, n, pieces=pieces, pool=Pool(threads)) as shards:
        loss = shards.backward(*(of or batch()), key=key)
    return [loss, model.grads.copy()]


def same(a: list, b: list) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


# -- the whole batch's


@pytest.mark.parametrize("rows", [1, 2, 5])  # fewer than shards, as many, and none that 2, 3 or 4 would divide
@pytest.mark.parametrize("pieces", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_loss_and_gradient_are_the_whole_batch_s_in_any_number_of_shards_and_pieces(n, pieces, rows):
    model, (ids, targets) = model_of(), (a[:rows] for a in batch())
    loss, truth = whole(model, ids, targets)
    with Shards(model, n, pieces=pieces) as shards:
        model.grads[...] = 7.0  # whatever was there
        found = shards.backward(ids, targets)
        assert type(found) is float and found == pytest.approx(loss, rel=TOLERANCE)
        for name, grad in gradients(model).items():
            assert np.abs(grad - truth[name]).max() <= TOLERANCE * np.abs(truth[name]).max(), name
        assert shards.loss(ids, targets) == found


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_batch_without_any_target_that_counts_has_a_loss_and_a_gradient_of_0(n):
    model, (ids, targets) = model_of(), batch()
    assert of_shards(model, n, of=(ids, np.full_like(targets, -100)))[0] == 0 and not model.grads.any()


def test_every_row_is_in_one_piece_and_all_pieces_divide_by_the_whole_batch_s_count():
    ids, targets = batch()
    for n in (1, 2, 3, 4, 7):
        for pieces in (1, 2, 3):
            with Shards(model_of(), n, pieces=pieces) as shards:
                split = shards.split(ids, targets, key=(3, 4))
            flat = [piece for shard in split for piece in shard]
            assert len(split) == min(n, B) and all(1 <= len(shard) <= pieces for shard in split)
            assert np.array_equal(np.concatenate([piece.batch[0] for piece in flat]), ids)
            assert np.array_equal(np.concatenate([piece.batch[1] for piece in flat]), targets)
            assert {piece.count for piece in flat} == {20}
            assert len({piece.key for piece in flat}) == len(flat)
            rows = [sum(len(piece.batch[0]) for piece in shard) for shard in split]
            assert max(rows) - min(rows) <= 1


def test_the_gradient_takes_the_place_of_what_was_there_and_the_next_one_of_this_one():
    model = model_of()
    with Shards(model, 3) as shards:
        first = [shards.backward(*batch()), model.grads.copy()]
        shards.backward(*batch(seed=1))
        assert not np.array_equal(model.grads, first[1])
        for rows in (1, 2):  # the shards without work have gradients of before
            shards.backward(*(a[:rows] for a in batch()))
            assert same([model.grads], of_shards(model_of(), rows, of=[a[:rows] for a in batch()])[1:])
        assert same(first, [shards.backward(*batch()), model.grads])


def test_the_loss_alone_leaves_the_gradient_as_it_was():
    model = model_of()
    with Shards(model, 3) as shards:
        model.grads[...] = 7.0
        shards.loss(*batch())
    assert (model.grads == 7.0).all()


def test_shards_work_with_the_model_s_weights_as_they_are_at_each_batch():
    model, other = model_of(), model_of(seed=1)
    with Shards(model, 3) as shards:
        shards.backward(*batch())
        model.values = other.values
        found = [shards.backward(*batch()), model.grads]
        assert same(found, of_shards(other, 3))


# -- bits


@pytest.mark.parametrize("n, pieces", [(2, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_are_those_of_the_shards_whatever_the_threads(n, pieces, dtype):
    # 9,973 tokens make an array of gradients of more than two blocks, which threads add up side by side
    found = [of_shards(model_of(dtype=dtype, n_vocab=9973, **DROPOUT), n, pieces=pieces, threads=threads, key=(1, 2))
             for threads in (1, 2, 3, 5)]
    assert all(same(found[0], other) for other in found[1:])


@pytest.mark.skipif(blas_threads() is None, reason="the threads of this BLAS cannot be set")
def test_the_bits_are_the_same_however_many_threads_the_blas_has():
    ask, tell = blas_threads()
    before, found = ask(), []
    sizes = dict(n_embd=96, n_hidden=386, n_ctx=64)  # products large enough for a BLAS to share out
    rng = np.random.default_rng(2)
    ids, targets = rng.integers(0, 13, (2, 5, 64))
    try:
        for n in (1, 2, 3):
            tell(n)
            found.append(of_shards(model_of(**sizes), 2, threads=2, of=(ids, targets)))
    finally:
        tell(before)
    assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("blas, most", [(True, 2), (False, 1)])
def test_threads_are_as_many_as_cores_and_one_where_the_blas_cannot_be_held(monkeypatch, blas, most):
    monkeypatch.setattr("numgpt.training.shards.cores", lambda: 2)
    monkeypatch.setattr("numgpt.threads.blas_threads", lambda: (lambda: 1, lambda n: None) if blas else None)
    for n, threads in ((1, 1), (2, most), (3, most)):
        with Shards(model_of(), n) as shards:
            assert shards.pool.n == threads and len(shards.models) == n


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_the_bits_are_the_same_whichever_shard_comes_late(slow):
    changes = dict(n_vocab=97, **DROPOUT)
    truth = of_shards(model_of(**changes), 3, key=(1, 2))
    model = model_of(**changes)
    with Shards(model, 3, pool=Pool(3)) as shards:
        block = shards.models[slow].body.blocks[1]
        backward = block.backward
        block.backward = lambda dy, saved: time.sleep(0.05) or backward(dy, saved)
        assert same(truth, [shards.backward(*batch(), key=(1, 2)), model.grads])
        assert set(shards.sum.n_added) == {3}


def test_no_part_of_a_shard_is_added_twice_or_beside_another_s(monkeypatch):
    """Every addition is slow, so that whoever does not wait comes in between."""
    added, under_way, together = [], set(), []
    add = Sum._add

    def slow(self, shard, i):
        together.append(i in under_way)
        under_way.add(i)
        time.sleep(0.002)
        add(self, shard, i)
        under_way.discard(i)
        added.append((i, shard))

    monkeypatch.setattr(Sum, "_add", slow)
    model, truth = model_of(), of_shards(model_of(), 1)
    with Shards(model, 3, pool=Pool(3)) as shards:
        for _ in range(3):
            added.clear()
            shards.backward(*batch())
            parts = len(shards.sum.parts[0])
            assert sorted(added) == [(i, shard) for i in range(parts) for shard in range(3)] and not any(together)
            assert all([shard for j, shard in added if j == i] == [0, 1, 2] for i in range(parts))
    assert np.allclose(model.grads, truth[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_after_a_batch_that_failed_nothing_is_left_of_the_one_before(n):
    model = model_of()
    ids, targets = batch()
    with Shards(model, n) as shards:
        first = [shards.backward(ids, targets), model.grads.copy()]
        with pytest.raises(ValueError, match="outside the vocabulary"):
            shards.backward(np.full_like(ids, model.config.n_vocab), targets)
        assert not model.grads.any()
        assert same([shards.backward(ids, targets), model.grads], first)


def test_between_batches_gradients_are_whoever_s_set_them():
    model = model_of()
    with Shards(model, 2) as shards:
        for _ in range(2):
            model.grads = np.arange(model.grads.size)
            copied = copy.deepcopy(model)
            assert all(param.grad.any() for param in model.params()) and np.array_equal(copied.grads, np.arange(model.grads.size))
            shards.backward(*batch())


def test_a_model_whose_gradients_could_not_be_added_whole_is_refused():
    model = model_of()
    model.body.dropout = Bend()
    model.lay_out()
    with pytest.raises(ValueError, match="parameters that none of its parts has"):
        Shards(model, 1)
    model = model_of()
    model.body.blocks = [model.body.blocks[0], model.body.blocks[0]]
    model.lay_out()
    with pytest.raises(ValueError, match="stands at two places"):
        Shards(model, 2)
    with Shards(model, 1) as shards:
        shards.backward(*batch())
        found = model.grads.copy()
    model.zero_grad()
    model.backward(model.forward(*batch())[1])
    assert np.array_equal(found, model.grads)


class Bend(Dropout):
    """A layer that nobody expects to have parameters."""

    def __init__(self):
        super().__init__(0.0)
        self.gain = Param(np.ones(3))


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_shards_take_the_memory_of_one_array_of_gradients_and_of_some_parts(pieces):
    model = model_of(dtype=np.float32, n_embd=96, n_hidden=384, n_layer=12, n_vocab=13)
    with Shards(model, 3, pieces=pieces, pool=Pool(1)) as shards:
        gc.collect()
        tracemalloc.start()
        shards.backward(*batch())
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 0.02 * model.grads.nbytes  # nothing of the gradients stays but the model's own
    # One after the other, with one piece each, they need a block's gradients, a twelfth of all, beside what the few rows
    # save; with more pieces a shard keeps its gradients until the last. It was 2 when each shard had an array of its own.
    assert peak < (0.5 if pieces == 1 else 1.5) * model.grads.nbytes


# -- dropout


@pytest.mark.parametrize("n, pieces", [(1, 1), (3, 1), (2, 2)])
def test_dropout_is_the_key_s_and_the_same_key_s_whenever_it_comes(n, pieces):
    with Shards(model_of(**DROPOUT), n, pieces=pieces) as shards:
        def drawn(key):
            return [shards.backward(*batch(), key=key), shards.model.grads.copy()]

        first = drawn((1, 2))
        others = [drawn(key) for key in ((1, 3), (2, 2), (2, 1), None)]
        assert not any(same(first, other) for other in others)
        assert same(first, drawn((1, 2)))
        assert same(others[-1], of_shards(model_of(), n, pieces=pieces))  # without a key there is none


def test_each_piece_s_dropout_is_drawn_from_the_key_and_its_first_row():
    model = model_of(**DROPOUT)
    ids, targets = batch()
    found, (by_hand, total) = of_shards(model, 2, pieces=2, key=(3, 4)), (model_of(**DROPOUT), 0.0)
    by_hand.zero_grad()
    for begin, end in ((0, 1), (1, 2), (2, 3), (3, 5)):
        loss, saved = by_hand.forward(ids[begin:end], targets[begin:end], rng=np.random.default_rng((3, 4, begin, 1)), count=20)
        by_hand.backward(saved)
        total += loss
    assert found[0] == pytest.approx(total, rel=TOLERANCE)
    assert np.abs(found[1] - by_hand.grads).max() <= TOLERANCE * np.abs(by_hand.grads).max()


def test_alike_rows_have_unlike_dropout_in_every_shard_and_piece():
    ids, targets = (np.repeat(a[:1], 4, axis=0) for a in batch())
    with Shards(model_of(**DROPOUT), 2, pieces=2) as shards:
        losses = {float(shards.model(*piece.batch, rng=piece.rng(), count=piece.count))
                  for shard in shards.split(ids, targets, key=(1, 2)) for piece in shard}
    assert len(losses) == 4


# -- what goes wrong


@pytest.mark.parametrize("n", [1, 3])
def test_a_nan_in_one_row_comes_out_in_the_loss_and_the_next_batch_is_as_ever(n):
    model = model_of(tied=False)  # a tied head would have the nan in the scores of every row
    row = model.body.embedding.table.value[12]
    ids, targets = (a.copy() for a in batch())
    ids[ids == 12] = 11
    clean, poisoned = (ids, targets), (ids.copy(), targets)
    poisoned[0][-1, 0] = 12  # in the last shard alone
    before = row.copy()
    with Shards(model, n, pool=Pool(n)) as shards:
        first = [shards.backward(*clean), model.grads.copy()]
        row[...] = np.nan
        assert np.isnan(shards.backward(*poisoned)) and np.isnan(model.grads).any()
        assert np.isfinite(shards.backward(*clean))
        row[...] = before
        assert same(first, [shards.backward(*clean), model.grads])


@pytest.mark.parametrize("row", range(B))
def test_an_error_in_any_shard_is_raised_and_the_next_batch_is_as_ever(row):
    model, (ids, targets) = model_of(), batch()
    wrong = ids.copy()
    wrong[row, 3] = 13
    with Shards(model, 3, pool=Pool(3)) as shards:
        with pytest.raises(ValueError, match="token id 13 at .* is outside the vocabulary"):
            shards.backward(wrong, targets)
        assert same([shards.backward(ids, targets), model.grads], of_shards(model_of(), 3))


@pytest.mark.parametrize("n", [1, 2])
def test_a_model_whose_layers_were_exchanged_is_refused_until_it_is_laid_out(n):
    model = model_of()
    model.body.blocks[1].ffn.up = Linear(15, 17, rng=5)
    with pytest.raises(ValueError, match=r"layers or arrays of the model were exchanged: call model.lay_out\(\)"):
        Shards(model, n)
    model.lay_out()
    loss, _ = whole(model, *batch())
    assert of_shards(model, n)[0] == pytest.approx(loss, rel=TOLERANCE)


@pytest.mark.parametrize("ids, targets", [((2, 7), (3, 7)), ((3, 7), (2, 7)), ((2, 7), (2, 6)),
                                          ((0, 7), (0, 7)), ((7,), (7,)), ((), ())])
def test_ids_and_targets_of_two_shapes_are_refused_and_not_cut_to_the_shorter(ids, targets):
    with Shards(model_of(), 2) as shards:
        for compute in (shards.backward, shards.loss):
            with pytest.raises(ValueError, match=r"a batch is ids(, targets and the like, with as many rows each, and one at least| and targets of one shape \(B, T\)); got"):
                compute(np.zeros(ids, int), np.zeros(targets, int))


@pytest.mark.parametrize("options, error, sentence", [
    (dict(n=0), ValueError, "shards must be at least 1; got 0"),
    (dict(n=2.5), TypeError, "shards must be a whole number; got 2.5"),
    (dict(pieces=0), ValueError, "pieces must be at least 1; got 0"),
    (dict(pieces="2"), TypeError, "pieces must be a whole number; got '2'")])
def test_numbers_of_shards_and_pieces_that_are_none_are_refused_with_a_sentence(options, error, sentence):
    with pytest.raises(error, match=sentence):
        Shards(model_of(), **options)
