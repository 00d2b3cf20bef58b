"""A backward pass to watch, to break and to mend."""
