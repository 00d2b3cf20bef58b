"""Heads, merged and projected. The gradient comes home to the wrong places.

The derivation's start: merging computes nothing, it moves numbers about,

    merged[b, t, h * D + d] = z[b, h, t, d]

and its backward moves the gradients back: dz[b, h, t, d] is dmerged[b, t, h * D + d], number by number.
"""

import numpy as np


class MergeHeads:
    """z (B, H, T, D) -> y (B, T, C);  weight (H * D, C)"""

    def __init__(self, weight):
        self.weight, self.dweight = weight, np.zeros_like(weight)

    def forward(self, z):
        B, H, T, D = z.shape
        merged = z.transpose(0, 2, 1, 3).reshape(B, T, H * D)
        return merged @ self.weight, (merged, z.shape)

    def backward(self, dy, saved):
        merged, (B, H, T, D) = saved
        self.dweight += np.einsum("bti,btj->ij", merged, dy)
        dmerged = dy @ self.weight.T
        #- return dmerged.reshape(B, H, T, D)
        return dmerged.reshape(B, T, H, D).transpose(0, 2, 1, 3)  #+


# -- the course's own from here on

from numgpt.teach.exercises.reports import draw, layer

TITLE = "heads, merged"
TASK, MISTAKES = "mend", ("heads-merged-wrong",)
HINTS = {
    "weight": ("It is the line that makes self.dweight.", "sum over b and t of merged[b, t, i] * dy[b, t, j]."),
    "z": ("The weight's gradient is right, and dmerged too. It is the last line: forward took two steps there, and "
          "it undoes one.",
          "forward exchanged the axes, then reshaped. Backwards: reshape to what stood there between the two, (B, T, H, D), "
          "and then exchange the axes."),
}
LESSON = ("a reshape to the right shape is not always the right reshape. All numbers are there and the norm is right: only "
          "their places are not. With one head, or one position, it would even pass.")


def checks(made):
    weight, z = draw((15, 4), (2, 3, 7, 5))
    yield layer(made.MergeHeads(weight), MergeHeads(weight), z, params=("weight",))
