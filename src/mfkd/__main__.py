"""`python -m mfkd` is `mfkd`."""

from mfkd.cli import main

main()
