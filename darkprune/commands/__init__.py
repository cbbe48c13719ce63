"""One file per subcommand: its arguments, and what it does."""
