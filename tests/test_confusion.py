"""What is taken for what: each number by hand, and a table that fits where it stands."""

import json

import numpy as np
import pytest

from numgpt.tuning.confusion import Confusion

#   is \ taken for    a  b  c
COUNTS = np.array([[6, 2, 0],
                   [1, 3, 0],
                   [0, 0, 0]])


def test_accuracy_precision_recall_and_f1_are_the_shares_that_their_names_say():
    true = [0] * 8 + [1] * 4
    found = Confusion.of(true, [0] * 6 + [1] * 2 + [0] + [1] * 3, ("a", "b", "c"))
    assert np.array_equal(found.counts, COUNTS)
    assert found.accuracy == 9 / 12
    assert found.precision[:2].tolist() == [6 / 7, 3 / 5] and found.recall[:2].tolist() == [6 / 8, 3 / 4]
    for i in range(2):
        p, r = found.precision[i], found.recall[i]
        assert found.f1[i] == pytest.approx(2 * p * r / (p + r), rel=1e-15)
    assert np.isnan([found.precision[2], found.recall[2], found.f1[2]]).all()
    assert found.macro_f1 == found.f1[:2].mean()  # a class that is nowhere is no failure


def test_a_class_that_is_never_taken_counts_as_nought_in_macro_f1():
    found = Confusion.of([0, 0, 1], [0, 0, 0], ("a", "b"))
    assert np.isnan(found.precision[1]) and found.f1.tolist() == [0.8, 0.0] and found.macro_f1 == 0.4


def test_the_table_shows_each_count_in_its_row_and_column():
    assert str(Confusion(("a", "b", "c"), COUNTS)).splitlines() == [
        'is \\ taken for    "a"    "b"  "c"  recall',
        '"a"                 6      2    0   75.0%',
        '"b"                 1      3    0   75.0%',
        '"c"                 0      0    0       -',
        "precision       85.7%  60.0%    -",
        "accuracy 75.0%, macro-F1 0.733 of the 2 labels that occur"]


def test_where_the_columns_are_too_few_each_class_has_a_line_with_its_most_frequent_mistake():
    assert Confusion(("a", "b", "c"), COUNTS).table(40).splitlines() == [
        "is   examples  precision  recall  mostly mistaken for",
        '"a"         8      85.7%   75.0%              "b" (2)',
        '"b"         4      60.0%   75.0%              "a" (1)',
        '"c"         0          -       -                    -',
        "accuracy 75.0%, macro-F1 0.733 of the 2 labels that occur"]


@pytest.mark.parametrize("n", [2, 5, 40])
def test_a_table_is_no_wider_than_it_may_be_whatever_the_labels(n):
    labels = tuple(f"label {i} " + "of a name that goes on and on" * (i % 2) for i in range(n))
    counts = np.random.default_rng(0).integers(0, 10_000, (n, n))
    for columns in (80, 100):
        lines = Confusion(labels, counts).table(columns).splitlines()
        assert max(map(len, lines)) <= columns and len(lines) >= n + 2


def test_the_numbers_go_into_json_and_what_is_a_share_of_nothing_is_null():
    content = json.loads(json.dumps(Confusion((True, False, 3), COUNTS).to_dict()))
    assert content["n"] == 12 and content["accuracy"] == 0.75 and content["labels"] == [True, False, 3]
    assert content["counts"] == COUNTS.tolist() and content["recall"] == [0.75, 0.75, None] and content["precision"][2] is None
