"""The built-in subcommands, one module each, registered through the same entry points as anybody's plugin."""
