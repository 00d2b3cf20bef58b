"""Gradients in the precision they were given in, against those in float64."""

import numpy as np

from numgpt.gradcheck.analytic import FACTORS, Analytic
from numgpt.gradcheck.comparison import ROUNDING, SAFETY, element
from numgpt.gradcheck.cotangents import Cotangents
from numgpt.gradcheck.numeric import disturbed, generator
from numgpt.gradcheck.report import INCONCLUSIVE, OK, WRONG, Finding, Worst
from numgpt.gradcheck.rules import scaled
from numgpt.gradcheck.subject import Subject

OPEN = 0.1        # tolerance, as a share of the largest derivative, beyond which nothing has been compared
VANISHING = 1e-9  # of the natural scale: zero but for rounding


def compare_as_given(subject: Subject, cotangents: Cotangents, natural: dict[str, float], seed: int) -> list[Finding]:
    """The float64 gradients have been checked by now; here they are the truth.

    What the given precision may cost is seen from the float64 gradient when every number moves by one ulp of that
    precision, and from the gradient itself when dy is rounded anew. A gradient that is zero but for rounding is
    measured against its surroundings, natural.
    """
    double = subject.with_dtype(np.float64)
    in_double = cotangents.in_double()
    given, exact = Analytic(subject, subject.values, cotangents), Analytic(subject, double, in_double)
    rng = generator(seed, "disturbances")
    nearby = [Analytic(subject, {n: x.astype(np.float64) for n, x in disturbed(subject.values, rng).items()}, in_double)
              for _ in range(4)]
    again = [(c, [subject.gradient(subject.values, scaled(tree, c)) for tree in cotangents.trees]) for c in FACTORS]
    eps = max(float(np.finfo(x.dtype).eps) for x in subject.values.values())

    findings = []
    for name, x in subject.values.items():
        if exact.fault(name) or name in given.missing or not x.size:
            continue  # said already
        if given.fault(name):
            findings.append(given.fault(name))
            continue
        truth, got = (np.array(side.gradients[name], np.float64).reshape(len(cotangents.trees), -1) for side in (exact, given))
        scale = abs(truth).max(1)
        noise = np.max([abs(np.reshape(near.gradients[name], truth.shape) - truth).max(1) for near in nearby], axis=0)
        own = np.max([abs(np.reshape([g[name] for g in gradients], truth.shape) / c - got).max(1)
                      for c, gradients in again], axis=0)
        noise += np.minimum(own, ROUNDING * (eps * scale + noise))
        vanishing = scale <= VANISHING * natural[name]
        surroundings = np.where(vanishing, np.maximum(scale, natural[name]), scale)
        tolerance = ROUNDING * eps * surroundings + SAFETY * noise + float(np.finfo(x.dtype).tiny)
        findings.append(_finding(name, x, truth, got, tolerance, surroundings))
    return findings


def _finding(name, x, truth, got, tolerance, scale) -> Finding:
    error = abs(got - truth)
    k, i = (int(j) for j in np.unravel_index((error / tolerance[:, None]).argmax(), error.shape))
    finding = Finding(name, OK, x.shape, str(x.dtype), "every", x.size, x.size, scale=float(scale[k]))
    finding.error = float(error[k, i] / (scale[k] or 1.0))
    finding.tolerance = float(tolerance[k] / (scale[k] or 1.0))
    finding.worst = Worst(name + element(i, x.shape), float(got[k, i]), float(truth[k, i]), float(tolerance[k]))
    finding.differing = int((error > tolerance[:, None]).any(0).sum())
    if finding.differing:
        finding.verdict = WRONG
        finding.looks_like = [f"right in float64, not in {x.dtype}"]
    elif (tolerance > OPEN * scale).any() and scale.any():
        finding.verdict = INCONCLUSIVE
    return finding
