"""The other side of a comparison: cases to check layers by, and mistakes to check checks by."""
