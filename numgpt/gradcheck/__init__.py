"""A gradient check that sets its own tolerances: for layers of this package and for anybody's.

    from numgpt import gradcheck

    report = gradcheck.check(layer, x)             # a layer, with its parameters
    report = gradcheck.check(f, x, w, backward=g)  # a pair of functions
    assert report                                  # or print(report), report.table(), report.to_json()
"""

from numgpt.gradcheck.check import check
from numgpt.gradcheck.report import Report

__all__ = ["Report", "check"]
