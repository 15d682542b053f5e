"""Command-line options, each declared once, in groups."""
