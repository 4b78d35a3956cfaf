"""`python -m inpaint`: the console script without its installed name."""

from .cli import main

main()
