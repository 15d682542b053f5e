"""The built-in subcommands, one module each, registered with the same entry points as plugins."""
