"""The `hdit` command: parses what was typed, calls one function of `hdit_core`, prints what it returns."""
