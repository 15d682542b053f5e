"""The error for a file that gives no image."""


class UnusableImageError(Exception):
    """This file gives no image; the message is the reason, the same on every machine."""
