"""A course of exercises: layers whose backward is missing, or has a mistake in it, and the check that says so.

    from numgpt.teach import exercises

    for exercise in exercises.in_order(): ...
    exercises.named("gelu").given            # the learner's file
    exercises.named("gelu").solution
    verdict = exercises.judge(exercise, text, "gelu.py")
    verdict.passed, verdict.report, verdict.hints
"""

from numgpt.teach.exercises.exercise import Exercise, in_order, named
from numgpt.teach.exercises.judge import Verdict, judge

__all__ = ["Exercise", "Verdict", "in_order", "judge", "named"]
