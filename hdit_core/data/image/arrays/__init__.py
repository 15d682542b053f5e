"""Images that are arrays of numbers: 16-bit integers, floats, and any number of channels."""
