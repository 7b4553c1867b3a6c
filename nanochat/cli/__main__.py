"""`python -m nanochat.cli`."""

from nanochat.cli.main import main

main()
