"""Entry point of `python -m search.cli`."""

from search.cli.start import main

main()
