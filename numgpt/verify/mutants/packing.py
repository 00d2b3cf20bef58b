"""The mistakes people make where several examples are packed in a row: of the kind "tuning", for there are none in training.

Most are made forward and backward alike, so that no gradient check can see them: an example that is read beside others
differs from itself alone, and a test of that finds them.
"""

from numgpt.verify.mutants.catalogue import add, other

REACH, BY_PLACE = "layers.attention.CausalAttention._reach", "layers.position._by_place"
ATTENTION, POSITIONS = "layers.attention.CausalAttention", "layers.position.LearnedPositions"
_SEEN, _OTHERWISE = "places(segments, (B, T)) + 1", "the gradient is right, for another function"

add("packed-together", REACH, _SEEN, "np.tile(np.arange(1, T + 1), (B, 1))",
    f"the examples of a row see each other: {_OTHERWISE}", breaks=(ATTENTION, "minimum(window, places + 1)"))
add("packed-border", REACH, _SEEN, "np.minimum(places(segments, (B, T)) + 2, np.arange(1, T + 1))",
    f"an example sees the last position of the one before: {_OTHERWISE}", breaks=(ATTENTION, "minimum(window, places + 1)"))
other("packed-border", f"an example's first position is taken for the last of the one before: {_OTHERWISE}", (
    "layers.segments.places", "begins[..., 1:] = np.where(segments[..., 1:] != segments[..., :-1], ordinals[1:], 0)",
    "begins[..., 2:] = np.where(segments[..., 1:-1] != segments[..., :-2], ordinals[2:], 0)"))
add("packed-places-go-on", "layers.position._places", "return places(segments, x.shape[:-1])",
    "return np.broadcast_to(np.arange(T), x.shape[:-1])",
    f"positions are counted from the row's begin, not the example's: {_OTHERWISE}", breaks=(POSITIONS, "counted from 0 in each"))
add("packed-places-backward", BY_PLACE, "rows.reshape(-1)", "np.broadcast_to(np.arange(rows.shape[-1]), rows.shape).reshape(-1)",
    "the table's gradient by the place in the row, not in the example", "packed-learned-positions",
    breaks=(POSITIONS, "y = x + table[places]"))
other("packed-places-backward", "of the examples that begin at one place, only the last one's gradient", (
    BY_PLACE, "total[:stop - start] += dy[start:stop]", "total[:stop - start] = dy[start:stop]"))
