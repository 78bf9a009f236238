"""`python -m cutout`."""

from cutout.cli import main

main()
