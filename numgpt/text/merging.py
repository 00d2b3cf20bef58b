"""Byte-pair encoding on ids alone: merging the pairs of a word, and learning which pairs to merge."""

import heapq
from collections import defaultdict
from collections.abc import Mapping

Pair = tuple[int, int]


def merge(word: list[int], merges: Mapping[Pair, tuple[int, int]]) -> list[int]:
    """The word with its pairs merged, lowest rank first, leftmost first; merges: pair -> (rank, new id).

    The candidates wait in a heap, and the word is a linked list of places, so that n letters take n log n.
    """
    n = len(word)
    word, after, before = list(word), list(range(1, n + 1)), list(range(-1, n - 1))
    heap = []

    def consider(i):
        j = after[i]
        if j < n:
            pair = word[i], word[j]
            if pair in merges:
                heapq.heappush(heap, (*merges[pair], i, pair))

    for i in range(n - 1):
        consider(i)
    while heap:
        _, new, i, pair = heapq.heappop(heap)
        j = after[i]
        if j >= n or (word[i], word[j]) != pair:  # a place that has been merged since
            continue
        word[i], word[j] = new, -1
        after[i] = after[j]
        if after[j] < n:
            before[after[j]] = i
        if before[i] >= 0:
            consider(before[i])
        consider(i)
    return [token for token in word if token >= 0]


def learn(words: Mapping[tuple[int, ...], int], spelled: list[bytes], n_vocab: int, min_count: int = 2) -> list[Pair]:
    """The pairs to merge, most frequent first, until spelled, the bytes of each id, which grows, has n_vocab entries.

    words: how often each occurs. Of pairs that are equally frequent the one of smaller ids is first. The counts are
    not taken again after a merge, but corrected in the words that held its pair.
    """
    letters, times = [list(word) for word in words], list(words.values())
    count, where = defaultdict(int), defaultdict(set)
    for w, word in enumerate(letters):
        for pair in zip(word, word[1:]):
            count[pair] += times[w]
            where[pair].add(w)
    ids = {token: i for i, token in enumerate(spelled)}
    heap = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(heap)
    learned = []
    while heap and len(spelled) < n_vocab:
        n, pair = heapq.heappop(heap)
        if -n != count[pair]:  # it has changed since; in its new place it is in the heap, or goes there now
            if 0 < count[pair] < -n:
                heapq.heappush(heap, (-count[pair], pair))
            continue
        if -n < min_count:
            break
        token = spelled[pair[0]] + spelled[pair[1]]
        new = ids.setdefault(token, len(spelled))  # another pair may have made the same token
        if new == len(spelled):
            spelled.append(token)
        learned.append(pair)
        grown = set()
        for w in where.pop(pair):
            old, word = letters[w], _joined(letters[w], pair, new)
            for p in zip(old, old[1:]):
                count[p] -= times[w]
            for p in zip(word, word[1:]):
                count[p] += times[w]
                if new in p:
                    where[p].add(w)
                    grown.add(p)
            letters[w] = word
        del count[pair]
        for p in grown:
            heapq.heappush(heap, (-count[p], p))
    return learned


def _joined(word: list[int], pair: Pair, new: int) -> list[int]:
    joined, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            joined.append(new)
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined
