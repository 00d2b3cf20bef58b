"""Several examples in a row: none is lost, cut or laid over another; and rows are dealt by seed and step alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.layers.inputs import IGNORE
from numgpt.text import CharTokenizer
from numgpt.tuning.encoding import encode
from numgpt.tuning.examples import Examples, Origin
from numgpt.tuning.lines import Instruction, Preference
from numgpt.tuning.packing import deal, pack, packed
from numgpt.tuning.template import Template

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=40)


@given(LENGTHS, st.integers(20, 50), st.data())
def test_packing_loses_nothing_splits_nothing_and_lays_nothing_over_another(lengths, n_ctx, data):
    begins = [data.draw(st.integers(1, n)) for n in lengths]
    ends = np.cumsum(lengths)
    sequences = [np.arange(end - n, end) + 1 for n, end in zip(lengths, ends)]  # no id occurs twice, and none is 0
    result = pack(sequences, begins, n_ctx)
    taken = np.zeros(result.ids.shape, int)
    for i, (row, start) in enumerate(result.places.tolist()):
        place = (row, slice(start, start + lengths[i]))
        taken[place] += 1
        assert np.array_equal(result.ids[place], sequences[i])
        wanted = np.append(sequences[i][1:], IGNORE)
        wanted[:begins[i] - 1] = IGNORE
        assert np.array_equal(result.targets[place], wanted)
        segments = result.segments[row]
        assert np.flatnonzero(segments == segments[start]).tolist() == [*range(start, start + lengths[i])]  # its own, and whole
    assert taken.max() == 1 and (result.ids[taken == 0] == 0).all() and (result.targets[taken == 0] == IGNORE).all()
    assert set(np.diff(result.segments, axis=1).ravel().tolist()) <= {0, 1} and (result.segments[:, 0] == 0).all()
    assert result.fill == taken.mean() == sum(lengths) / result.ids.size
    assert len(set(result.places[:, 0].tolist())) == len(result)  # no row is empty


@given(LENGTHS, st.integers(20, 50))
def test_packing_takes_few_rows_and_the_same_ones_each_time(lengths, n_ctx):
    sequences = [np.full(n, n) for n in lengths]
    one, two = (pack(sequences, [1] * len(lengths), n_ctx) for _ in range(2))
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("ids", "targets", "segments", "places"))
    # A row is begun where none had room for an example, so each but the last has less room than the longest needs.
    assert (len(one) - 1) * (n_ctx - max(lengths) + 1) <= sum(lengths) <= len(one) * n_ctx


def test_packing_by_hand():
    result = pack([np.array([1, 2, 3]), np.array([4, 5, 6, 7, 8]), np.array([9, 10]), np.array([11, 12, 13, 14])], [2, 1, 1, 3], 8)
    assert result.ids.tolist() == [[4, 5, 6, 7, 8, 1, 2, 3], [11, 12, 13, 14, 9, 10, 0, 0]]
    assert result.targets.tolist() == [[5, 6, 7, 8, IGNORE, IGNORE, 3, IGNORE], [IGNORE, IGNORE, 14, IGNORE, 10, IGNORE, IGNORE, IGNORE]]
    assert result.segments.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 2, 2]]
    assert result.places.tolist() == [[0, 5], [0, 0], [1, 4], [1, 0]] and result.fill == 14 / 16


def test_short_examples_fill_rows_almost_wholly():
    rng = np.random.default_rng(0)
    result = pack([np.zeros(n, int) for n in rng.integers(5, 60, 5000)], [1] * 5000, 128)
    assert result.fill > 0.99  # one a row: 0.25


def test_the_targets_of_a_packed_example_are_those_it_has_alone():
    tokenizer = CharTokenizer("abcdefgh")
    items = [Instruction("ab", "cd"), Instruction("e", "f"), Instruction("gh", "a")]
    rows = encode(Examples("instruct", items, [Origin("data", i) for i in range(3)]), Template("instruct", 8), tokenizer, 16)
    result = packed(rows, 16)
    assert len(result) == 2 and result.fill == (7 + 5 + 6) / 32
    for i, (row, start) in enumerate(result.places.tolist()):
        alone = rows.at([i])
        stop = start + alone.ids.shape[1]
        assert np.array_equal(result.ids[row, start:stop], alone.ids[0])
        assert np.array_equal(result.targets[row, start:stop], alone.targets[0])
    pairs = encode(Examples("preference", [Preference("a", "b", "c")], [Origin("data", 1)]), Template("instruct", 8), tokenizer, 16)
    with pytest.raises(ValueError, match="an example of preference is several sequences, which belong together"):
        packed(pairs, 16)


@pytest.mark.parametrize("sequences, begins, sentence", [
    ([], [], "pack wants sequences of 1 to 4 tokens; got none"), ([[1] * 5], [1], "of 1 to 4 tokens; got one of 5"),
    ([[1], []], [1, 1], "of 1 to 4 tokens; got one of 0"), ([[1, 2]], [3], "from 1 to its length"), ([[1, 2]], [0], "from 1 to its length"),
    ([[1, 2]], [1, 1], "begins has for each sequence"),
])
def test_what_cannot_be_packed_is_refused(sequences, begins, sentence):
    with pytest.raises(ValueError) as error:
        pack(sequences, begins, 4)
    assert sentence in str(error.value)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 99))
def test_each_row_is_dealt_once_an_epoch_and_every_batch_is_full(n, batch, seed):
    dealt = deal(n, batch, seed=seed)
    steps = [dealt(step) for step in range(3 * n // batch + 1)]
    assert all(step.shape == (batch,) for step in steps)
    rows = np.concatenate(steps)[:3 * n].reshape(3, n)
    assert np.array_equal(np.sort(rows, axis=1), np.tile(np.arange(n), (3, 1)))
    assert np.array_equal(deal(n, batch, seed=seed)(2), dealt(2))  # whatever was dealt before


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = [deal(100, 100, seed=seed)(step).tolist() for seed in range(3) for step in range(3)]
    assert len(set(map(tuple, orders))) == 9
