"""What runtimes say when they fail, and what mends it."""
