"""Small files of every kind that a folder of pictures can contain, each with the expected result.

The picture is 12 wide and 8 high; its quadrants are red, green (right), blue (below) and white (below right) unless a
case says otherwise. Everything is made on the spot by Pillow, or byte by byte where Pillow cannot write it.
"""

from tests.data.zoo_color_spaces import named_spaces, profiles_and_others
from tests.data.zoo_colors import colors, inks, profiles, transparencies
from tests.data.zoo_damage import jpegs, others, palettes_and_pixels, pngs, tiffs
from tests.data.zoo_greys import greys, palettes
from tests.data.zoo_parts import RED as RED
from tests.data.zoo_parts import Animal
from tests.data.zoo_parts import picture as picture
from tests.data.zoo_parts import saved as saved
from tests.data.zoo_shapes import animations, broken, orientations, shapes


def animals() -> dict[str, Animal]:
    """Return every file by its name."""
    groups = (
        orientations, palettes, greys, colors, transparencies, inks, profiles, animations, shapes, broken,
        named_spaces, profiles_and_others, jpegs, pngs, tiffs,
        others, palettes_and_pixels,
    )  # fmt: skip
    return {name: animal for group in groups for name, animal in group()}
