"""How random numbers are drawn, in plain whole numbers, so that a port can draw the same ones.

numgpt draws with numpy.random.default_rng(seed); this page is what that does, step by step, each step beside its code
below. ^ is exclusive or, >> a shift to the right; "mod 2^n" is what arithmetic of n bits without sign does by itself.

1. Seed to words. A whole number becomes 32-bit words, the lowest first, and 0 one word; a tuple is the words of its
   numbers, one after the other. The words are hashed into a pool of four, and the pool into four 64-bit words: `seeded`.
2. Words to state (PCG64). state and increment have 128 bits. Of the four words a, b, c, d: start = a * 2^64 + b and
   increment = 2 * (c * 2^64 + d) + 1, both mod 2^128. From state 0: step, add start, step.
3. A step is state = state * MULTIPLIER + increment mod 2^128. `next64` steps, then folds the new state: its upper half
   ^ its lower half, rotated to the right by the state's top six bits (XSL RR).
4. `next32` takes the lower half of a next64, and the next call gives the upper half of the same. The half that waits is
   for next32 alone: next64 neither takes nor clears it, however many it is called between.
5. random(): the top 53 bits of next64, / 2^53. random(float32): the top 24 bits of next32, / 2^24.
6. integers(low, high): low + a number below n = high - low, which is the upper part of word * n; a word that would
   favour some numbers, those whose lower part is below 2^bits mod n, is passed over (Lemire). The words are
   next32's for n <= 2^32, else next64's; n = 1 draws nothing.
7. normal(): the ziggurat. f(x) = exp(-x^2 / 2) for x >= 0 is covered by 256 layers of one area: 255 strips one above the
   other, from x = 0 to x[i], and below them layer 0, all that is under f(x[255]), tail and all. One next64 chooses:
   the layer i by bits 0 to 7, the sign by bit 8, and by bits 9 to 60 a number m: x = m * W[i]. Where m < K[i], 99 times
   in 100, x lies under f whatever its height, and is it. Else in layer 0 the tail is drawn, in the others a height (the
   wedge), and where that is above f, all begins anew.

The tables W, K and F = f(x) are in `tables`, as NumPy has them, to the last bit. From exact arithmetic 213 of the 256
widths W would come out a little otherwise (by 2e-14 at most), and with them five normals in six. So let Python print
them for the port, in hexadecimal (`W[i].hex()`). Beside them a normal takes exp and log1p from the C library. exp only
decides, between numbers that seldom lie within its rounding; log1p makes the numbers of the tail, one in 3,900, whose
last digit is the library's. And let no compiler fuse products and sums (-ffp-contract=off).

What is drawn, each array in C order, the last axis fastest:

    weights   Draws(seed), the model's matrices and tables in the order of named_params(), biases and gains not among
              them, nor what starts with a std of 0. A weight is std * normal() in float64, then rounded to the dtype.
    batches   RandomCrops takes the starts of its B rows from Draws((seed, step)): integers(0, last + 1).
    dropout   kept = random(float32) >= p, with p rounded to float32. In training from Draws((seed, step, i, 1)), i being
              the piece's first row of the batch; in the order in which forward comes to each dropout. That of attention
              draws its masks 64 queries at a time, each (B, H, queries, keys up to the last of these queries; with a
              window, from the first that any of them sees).

Hold a port to `probes(seed)` first, bit for bit; then to 20,000 normals, for three come by neither wedge nor tail.
"""

import functools
import math
from decimal import Decimal, localcontext

import numpy as np

from numgpt.layers.inputs import whole

MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
R, V = 3.6541528853610088, 0.0049286732339746519  # x[255], where the tail begins, and the area of a layer


class Draws:
    """What default_rng(seed) draws, one number at a time. seed: a whole number from 0 on, or a tuple of them."""

    def __init__(self, seed):
        a, b, c, d = seeded(seed)
        self.state, self.increment, self.half = 0, (c << 64 | d) << 1 & 2 ** 128 - 1 | 1, None
        self._step()
        self.state += a << 64 | b
        self._step()

    def _step(self) -> None:
        self.state = (self.state * MULTIPLIER + self.increment) % 2 ** 128

    def next64(self) -> int:
        self._step()
        word, turn = (self.state >> 64 ^ self.state) % 2 ** 64, self.state >> 122
        return (word >> turn | word << 64 - turn) % 2 ** 64

    def next32(self) -> int:
        if self.half is None:
            word = self.next64()
            self.half = word >> 32
            return word % 2 ** 32
        word, self.half = self.half, None
        return word

    def random(self, dtype=np.float64) -> float | np.float32:
        """A number from 0 on and below 1."""
        if dtype not in (np.float64, np.float32):
            raise TypeError(f"random draws np.float64 or np.float32; got {dtype}")
        return (self.next64() >> 11) / 2 ** 53 if dtype == np.float64 else np.float32((self.next32() >> 8) / 2 ** 24)

    def integers(self, low: int, high: int) -> int:
        """A whole number from low on and below high."""
        n = high - low
        if not 1 <= n <= 2 ** 64:
            raise ValueError(f"integers draws from 1 to 2**64 numbers, low being below high; got low {low} and high {high}")
        if n == 1:
            return low
        bits, word = (32, self.next32) if n <= 2 ** 32 else (64, self.next64)
        while True:
            product = word() * n  # of twice as many bits
            if product % 2 ** bits >= 2 ** bits % n:
                return low + (product >> bits)

    def normal(self) -> float:
        """A number from the normal distribution of mean 0 and standard deviation 1."""
        W, K, F = tables()
        while True:
            word = self.next64()
            i, sign, m = word % 256, -1 if word >> 8 & 1 else 1, word >> 9 & 2 ** 52 - 1
            x = m * W[i]
            if m < K[i]:
                return sign * x
            if i == 0:
                return self._tail(-1 if m >> 8 & 1 else 1)  # not by the bit that is the sign elsewhere
            if (F[i - 1] - F[i]) * self.random() + F[i] < math.exp(-0.5 * x * x):
                return sign * x

    def _tail(self, sign: int) -> float:
        """Beyond R: a step of an exponential distribution, kept with chance exp(-step^2 / 2)."""
        while True:
            step = -(1 / R) * math.log1p(-self.random())
            y = -math.log1p(-self.random())
            if y + y > step * step:
                return sign * (R + step)


def seeded(seed) -> list[int]:
    """Four 64-bit words of a seed (SeedSequence). All arithmetic is mod 2^32 but that of the last line."""
    words = _words(seed)
    constant = 0x43B0D7E5

    def hashed(word, multiplier=0x931E8875):
        nonlocal constant  # another one for each call
        word ^= constant
        constant = constant * multiplier % 2 ** 32
        word = word * constant % 2 ** 32
        return word ^ word >> 16

    def mixed(a, b):
        word = (0xCA01F9DD * a - 0x4973F715 * b) % 2 ** 32
        return word ^ word >> 16

    pool = [hashed(word) for word in (words + [0, 0, 0])[:4]]  # so 1, (1,) and (1, 0) are one seed
    for source in range(4):
        for i in range(4):
            if i != source:
                pool[i] = mixed(pool[i], hashed(pool[source]))
    for word in words[4:]:
        for i in range(4):
            pool[i] = mixed(pool[i], hashed(word))
    constant = 0x8B51F9DD
    out = [hashed(pool[i % 4], 0x58F38DED) for i in range(8)]
    return [out[i] | out[i + 1] << 32 for i in range(0, 8, 2)]  # the lower half first


def _words(seed) -> list[int]:
    words = []
    for number in seed if isinstance(seed, (tuple, list)) else [seed]:
        number = whole(number, "a seed")
        if number < 0:
            raise ValueError(f"a seed is a whole number from 0 on, or a tuple of them; got {seed!r}")
        words.append(number % 2 ** 32)
        while number := number >> 32:
            words.append(number % 2 ** 32)
    return words


@functools.cache
def tables() -> tuple[list[float], list[int], list[float]]:
    """The ziggurat: W[i] = x[i] / 2^52, F[i] = f(x[i]), and below m = K[i] all of layer i lies under f.

    Strip i reaches from f(x[i]) up to f(x[i-1]), so that its area is x[i] * (f(x[i-1]) - f(x[i])) = V. Hence, from
    x[255] = R down, f(x[i]) = f(x[i+1]) + V / x[i+1]. Layer 0 is as wide as if it were a strip of height f(R).

    NumPy's tables were made by this recursion in float64, whose roundings grow on the way down to 2e-14; so its order
    is kept, exp and log are rounded as they should be on every machine, and its one slip is made: f(x[38]) lies 0.5017
    of the distance of two float64 from the one that was taken. (Without the slip 37 widths, of one normal in seven, differ.)
    """
    x, F = [0.0] * 256, [1.0] * 256
    x[255], F[255] = R, _rounded("exp", -0.5 * R * R)
    for i in range(254, 0, -1):
        x[i] = math.sqrt(-2 * _rounded("ln", F[i + 1] + V / x[i + 1]))
        F[i] = _rounded("exp", -0.5 * x[i] * x[i])
        if i == 38:
            F[i] = math.nextafter(F[i], 1)
    W = [width / 2 ** 52 for width in [V / F[255], *x[1:]]]
    K = [round(R * F[255] / V * 2 ** 52), 0, *(round(x[i - 1] / x[i] * 2 ** 52) for i in range(2, 256))]
    return W, K, F


def _rounded(function: str, x: float) -> float:
    """exp or ln of x, taken to 40 digits and then rounded to float64."""
    with localcontext() as context:
        context.prec = 40
        return float(getattr(Decimal(x), function)())


def probes(seed) -> dict[str, list]:
    """What NumPy draws first, each from a fresh default_rng(seed), for a trace's manifest: a port is held to it."""
    def rng():
        return np.random.default_rng(seed)

    words = rng().bit_generator.random_raw(3).tolist()
    return {"words": [f"0x{word:016x}" for word in words],  # as text: many a reader of JSON has 53 bits for a number
            "random": rng().random(3).tolist(), "random_float32": rng().random(3, np.float32).tolist(),
            "integers_below_97": rng().integers(0, 97, 3).tolist(), "normal": rng().standard_normal(3).tolist()}
