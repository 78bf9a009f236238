"""Many files: planned, done in parallel, reported."""
