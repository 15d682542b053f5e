"""Draws the hourglass of a recipe's network as SVG: one box per level, as wide as its grid of tokens."""

from hdit_core.recipe.model import ModelRecipe

BOX_HEIGHT, GAP = 46, 26
NARROWEST, WIDEST = 110, 300
COLORS = {"neighborhood": "#7aa6d8", "shifted-window": "#7ac2b0", "global": "#e0a458", "none": "#b9b9b9"}
TEXT = "#1c1c1c"


def hourglass_svg(model: ModelRecipe) -> str:
    """Return the figure: encoder on the left, decoder on the right, skip connections between them."""
    levels, inner = len(model.levels), len(model.levels) - 1
    height = (levels + 1) * (BOX_HEIGHT + GAP)
    left, right = WIDEST / 2 + 10, WIDEST * 1.5 + 150
    parts = [_header(right + WIDEST / 2 + 10, height)]
    size = "x".join(map(str, model.image_size))
    patch = "x".join(map(str, model.patch_size))
    parts += _box(left, _top(-1), WIDEST, "#ececec", f"noisy image, {size}", f"{model.channels} channels, times c_in")
    parts += _box(right, _top(-1), WIDEST, "#ececec", f"F, {size}", f"patches of {patch} to pixels")
    parts += _arrow(left, _top(-1) + BOX_HEIGHT, left, _top(0), f"patches of {patch}")
    parts += _arrow(right, _top(0), right, _top(-1) + BOX_HEIGHT, "")
    for index, level in enumerate(model.levels):
        rows, columns = model.grid(index)
        span = WIDEST - (WIDEST - NARROWEST) * index / max(inner, 1)
        kernel = f" {level.kernel_size}x{level.kernel_size}" if level.attention == "neighborhood" else ""
        lines = f"{rows}x{columns} tokens of {level.width}", f"{level.depth} x {level.attention}{kernel}"
        centers = [(left + right) / 2] if index == inner else [left, right]
        for center in centers:
            parts += _box(center, _top(index), max(span, 190), COLORS[level.attention], *lines)
        if index < inner:
            half = max(span, 190) / 2
            y = _top(index) + BOX_HEIGHT / 2
            parts += _arrow(left + half, y, right - half, y, model.skip)
            below = (left + right) / 2 if index + 1 == inner else None
            parts += _arrow(left, _top(index) + BOX_HEIGHT, below or left, _top(index + 1), "")
            parts += _arrow(below or right, _top(index + 1), right, _top(index) + BOX_HEIGHT, "")
    return "\n".join([*parts, "</svg>", ""])


def _top(level: int) -> float:
    return (level + 1) * (BOX_HEIGHT + GAP) + GAP / 2


def _header(width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" '
        f'font-size="13" text-anchor="middle" role="img" aria-label="The hourglass network">'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#808080"/></marker></defs>'
    )


def _box(center: float, top: float, width: float, color: str, first: str, second: str) -> list[str]:
    return [
        f'<rect x="{center - width / 2:g}" y="{top:g}" width="{width:g}" height="{BOX_HEIGHT}" rx="5" fill="{color}"/>',
        f'<text x="{center:g}" y="{top + 19:g}" fill="{TEXT}">{first}</text>',
        f'<text x="{center:g}" y="{top + 36:g}" fill="{TEXT}" font-size="11">{second}</text>',
    ]


def _arrow(x: float, y: float, to_x: float, to_y: float, label: str) -> list[str]:
    line = (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="#808080" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )
    dx = 8 if x == to_x else 0
    anchor = ' text-anchor="start"' if dx else ""
    text = f'<text x="{(x + to_x) / 2 + dx:g}" y="{(y + to_y) / 2 - 5 + dx:g}" fill="#808080" font-size="11"{anchor}>'
    return [line, f"{text}{label}</text>"] if label else [line]
