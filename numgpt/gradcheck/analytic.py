"""The gradients that are checked: what backward says, for several cotangents."""

import numpy as np

from numgpt.gradcheck.cotangents import Cotangents
from numgpt.gradcheck.report import WRONG, Finding
from numgpt.gradcheck.rules import scaled
from numgpt.gradcheck.subject import Subject

FACTORS = (0.7, 1.1, 1.9)  # of dy, to see what rounding does: no powers of two, which round nothing


class Analytic:
    """gradients[name][k]: by the array of that name, for cotangent number k."""

    def __init__(self, subject: Subject, values: dict[str, np.ndarray], cotangents: Cotangents):
        self.subject, self.values, self.cotangents = subject, values, cotangents
        self.missing: set[str] = set()
        every = [self._gradient(values, tree) for tree in cotangents.trees]
        self.gradients = {name: [gradient[name] for gradient in every] for name in values}
        self._variants: list[list[dict]] = []

    def fault(self, name: str) -> Finding | None:
        """A gradient that cannot be compared: of another shape, or not finite."""
        shape, gradients = self.values[name].shape, self.gradients[name]
        if any(g.shape != shape for g in gradients):
            return Finding(name, WRONG, shape, notes=[f"the gradient has shape {gradients[0].shape}, the array {shape}"])
        if not all(np.isfinite(g).all() for g in gradients):
            return Finding(name, WRONG, shape, notes=["there are nan or inf in the gradient"])
        return None

    def along(self, name: str, direction) -> np.ndarray:
        """(cotangents,)"""
        return np.array([direction.dot(g) for g in self.gradients[name]])

    def size(self, name: str, direction) -> np.ndarray:
        """How large a derivative along such a direction may be (cotangents,)."""
        return np.array([direction.size(g) for g in self.gradients[name]])

    def own_noise(self, name: str, direction, disturbed) -> np.ndarray:
        """How far the gradient moves with the last digits of every number, and how far backward of c dy is from
        c times backward of dy: with c no power of two everything is rounded anew (cotangents,)."""
        if not self._variants:
            for tree in self.cotangents.trees:
                around = [(c, values) for c in FACTORS for values in (self.values, disturbed(self.values))]
                self._variants.append([{n: g / c for n, g in self._gradient(values, scaled(tree, c)).items()}
                                       for c, values in around])
        noise = []
        for gradient, variants in zip(self.gradients[name], self._variants):
            changes = [variant[name] - gradient for variant in variants]
            usual = np.quantile(np.max(np.abs(changes), axis=0), 0.75)  # not the largest: it may sit at a kink
            noise.append(max(usual, *(direction.noise(change) for change in changes)))
        return np.array(noise)

    def _gradient(self, values, dy) -> dict[str, np.ndarray]:
        """Where backward gives nothing, zeros: to be checked like any."""
        gradient = self.subject.gradient(values, dy)
        nothing = {name for name, g in gradient.items() if g is None}
        self.missing |= nothing
        return {name: np.zeros(values[name].shape) if name in nothing else g for name, g in gradient.items()}
