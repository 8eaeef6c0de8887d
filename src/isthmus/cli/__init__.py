"""The command line: one module per command; `isthmus.cli.main` finds them."""
