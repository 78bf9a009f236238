"""`python -m cutout`."""

from cutout.cli import command

command()
