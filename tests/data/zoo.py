"""Small files of every kind a folder of pictures may hold, each with what must come of it.

The picture is 12 wide and 8 high; its quadrants are red, green (right), blue (below) and white (below right) unless a
case says otherwise. Everything is made on the spot by Pillow, or byte by byte where Pillow cannot write it.
"""

from zoo_colours import colours, inks, profiles, transparencies
from zoo_greys import greys, palettes
from zoo_parts import RED as RED
from zoo_parts import Animal
from zoo_parts import picture as picture
from zoo_parts import saved as saved
from zoo_shapes import animations, broken, orientations, shapes


def animals() -> dict[str, Animal]:
    """Return every file by its name."""
    groups = (
        orientations, palettes, greys, colours, transparencies, inks, profiles, animations, shapes, broken
    )  # fmt: skip
    return {name: animal for group in groups for name, animal in group()}
