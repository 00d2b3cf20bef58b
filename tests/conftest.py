"""Property tests draw the same examples every time in CI; at a desk others each time, and fewer."""

import os

from hypothesis import settings

settings.register_profile("desk", deadline=None, max_examples=15)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
