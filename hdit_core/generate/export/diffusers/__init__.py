"""The code that an export for the diffusers library contains; these files do not import hdit."""
