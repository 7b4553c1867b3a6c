"""`python -m nanochat.cli`."""

from nanochat.cli import main

main()
