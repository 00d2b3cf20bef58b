"""One file a question; python -m benchmarks QUESTION answers it."""
