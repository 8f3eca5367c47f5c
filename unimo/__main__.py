"""`python -m unimo`: the same as `unimo`, for torchrun."""

from unimo.cli import main

main()
