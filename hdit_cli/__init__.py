"""The `hdit` command: parses the arguments, calls one function of `hdit_core`, and prints the result."""
