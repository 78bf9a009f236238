"""How good and how fast: scores, comparisons, measurements."""
