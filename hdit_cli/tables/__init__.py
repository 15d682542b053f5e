"""The tables that commands print for people; imported inside command bodies."""
