"""Ways to run many jobs."""
