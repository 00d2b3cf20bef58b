"""The exercises, a file each. A file is the solution as code that runs, and from it the learner's file is made:

    a line that ends in #+      stands in the solution alone
    a line that begins with #-  stands in the learner's file alone

as in a diff from the one to the other. Of two mistakes each has its number: #+1, #-1, #+2, #-2. What
comes after OWN is the course's: the learner does not see it.

    TITLE      what is exercised
    TASK       "write", where lines are missing; "mend", where there is a mistake
    MISTAKES   its name, or names, in numgpt.verify.mutants
    HINTS      by the name of what is wrong, in the order in which to look: where it is made, and which term
    LESSON     what to keep of it, for those who have passed
    checks     reports on a learner's module, by numgpt.teach.exercises.reports
"""

OWN = "# -- the course's own from here on"
ORDER = ("linear", "bias", "gelu", "dropout", "feed-forward", "residual", "layer-norm", "norm-review", "softmax",
         "cross-entropy", "embedding", "scores", "attention", "heads", "tied", "accumulation", "clip", "adamw")
