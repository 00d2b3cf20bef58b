"""erf, erfc and the normal distribution function, which NumPy lacks, within two ulp.

All are read from tables of Taylor series around the points k / 64. erfc falls like exp(-x^2), too
steeply for a table; what is left when that factor is taken out, erfc(x) exp(x^2), falls like 1 / x
and keeps every digit where erfc has almost vanished. The tables are computed when first needed, in
34-digit decimals: 40 ms each.
"""

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

PER_UNIT = 64  # table points
TERMS = 9      # |x - k/64| <= 1/128, so the next term is below 2^-60
ONE = 6.0      # erf(6) rounds to 1
DIGITS = 34

PI = Decimal("3.14159265358979323846264338327950288")


def erf(x):
    """The error function: 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return _in_double(x, _erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x))


def erfc(x):
    """1 - erf(x), with all its digits where erf rounds to 1."""
    return _in_double(x, _erfc, lambda x: -2 / math.sqrt(math.pi) * np.exp(-x * x))


def normal_cdf(x):
    """The chance that a standard normal number is below x: erfc(-x / sqrt(2)) / 2."""
    return _in_double(x, _normal_cdf, normal_density)


def normal_density(x):
    """exp(-x^2 / 2) / sqrt(2 pi), the derivative of normal_cdf."""
    return np.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


def _erf(x):
    lead, rest = _series(_erf_table(), np.minimum(abs(x), ONE))
    return np.copysign(lead + rest, x)


def _erfc(x):
    tail = _tail(abs(x), 1.0)
    return np.where(x < 0, 2 - tail, tail)


def _normal_cdf(x):
    tail = _tail(abs(x), 0.5)
    return np.where(x < 0, tail, 1 - tail)


def _tail(x, s: float):
    """erfc(x) for s = 1, normal_cdf(-x) for s = 1/2: the table's gentle factor times exp(-s x^2), x >= 0."""
    x = np.minimum(x, _last(s))
    lead, rest = _series(_tail_table(s), x)
    # Rounding x^2 would cost x^2 ulp. The square of z, which has half the digits, is exact; what is
    # left of x^2 is small and joins the small part of the sum.
    z = x.astype(np.float32).astype(np.float64)
    rest += (lead + rest) * np.expm1(-s * ((x - z) * (x + z)))
    return (lead + rest) * np.exp(-s * (z * z))


def _series(table, x):
    """The Taylor series around the table's nearest point, as a large part and a small one."""
    k = np.rint(x * PER_UNIT)
    d = x - k / PER_UNIT
    k = np.nan_to_num(k).astype(np.intp)
    lead, lost, *terms = table
    y = terms[-1].take(k)
    for term in terms[-2::-1]:
        y = y * d + term.take(k)
    return lead.take(k), y * d + lost.take(k)


def _in_double(x, f, slope):
    """f in float64, returned in x's dtype. Of complex numbers those that a complex step makes:
    f(x + ih) = f(x) + ih f'(x) as long as h^2 rounds away."""
    x = np.asarray(x)
    if np.iscomplexobj(x):
        if x.size and abs(x.imag).max() > 1e-8:
            raise ValueError("erf and its kin take complex numbers for a complex step alone, with imaginary "
                             f"parts below 1e-8; got {abs(x.imag).max():.3g}")
        y = _in_double(x.real, f, slope) + 1j * (x.imag * slope(x.real))
        return y.astype(x.dtype)
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    return f(x.astype(np.float64)).astype(dtype)[()]


@cache
def _erf_table():
    """Around c, a[1] = 2/sqrt(pi) exp(-c^2), and erf'' = -2 x erf' gives each term from the two before."""
    with localcontext() as context:
        context.prec = DIGITS
        h = Decimal(1) / PER_UNIT
        value, columns = Decimal(0), []
        for k in range(round(ONE * PER_UNIT) + 1):
            c = k * h
            a = [value, 2 / PI.sqrt() * (-c * c).exp()]
            for n in range(2, 2 * TERMS):
                a.append(-2 * (c * (n - 1) * a[n - 1] + (n - 2) * a[n - 2]) / (n * (n - 1)))
            columns.append(_column(a))
            value = _polynomial(a, h)
    return np.array(columns).T.copy()


@cache
def _tail_table(s: float):
    """y = erfc(x) exp(x^2) for s = 1 and normal_cdf(-x) exp(x^2 / 2) for s = 1/2: y' = 2 s x y - slope.

    Stepping down from b to a, an error shrinks by exp(-s (b^2 - a^2)); so the start, beyond the
    end of the table, needs no more than its first digits, slope / (2 s x).
    """
    with localcontext() as context:
        context.prec = DIGITS
        h = Decimal(1) / PER_UNIT
        s = Decimal(s)
        slope = 2 * s * (s / PI).sqrt()
        points = round(_last(s) * PER_UNIT) + 1
        c = (points + 3 * PER_UNIT) * h
        value, columns = slope / (2 * s * c), []
        while c >= 0:
            a = [value, 2 * s * c * value - slope]
            for n in range(2, 2 * TERMS):
                a.append(2 * s * (c * a[n - 1] + a[n - 2]) / n)
            columns.append(_column(a))
            value = _polynomial(a, -h)
            c -= h
    return np.array(columns[::-1][:points]).T.copy()


def _last(s) -> float:
    """Where exp(-s x^2) has underflowed."""
    return math.ceil(math.sqrt(750 / float(s)))


def _column(a):
    """The first coefficient as a double and what that lost, then the rest."""
    return [float(a[0]), float(a[0] - Decimal(float(a[0]))), *map(float, a[1:TERMS])]


def _polynomial(a, x):
    y = Decimal(0)
    for term in reversed(a):
        y = y * x + term
    return y
