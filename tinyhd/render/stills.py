"""Pictures as files: single ones, and many on a sheet."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

QUALITY = 90
"""Of JPEG and WebP."""

_SHEET_WIDTH, _GAP, _LINE = 1600, 12, 34
_BACKGROUND, _INK = (24, 24, 27), (235, 235, 240)


def encode_still(pixels: np.ndarray, format: str) -> bytes:
    """A picture, uint8 RGB (H, W, 3), as the content of a file: jpeg, png or webp."""
    target = io.BytesIO()
    settings = {} if format == "png" else {"quality": QUALITY}
    Image.fromarray(pixels).save(target, format, **settings)
    return target.getvalue()


def scaled(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture, uint8 RGB (H, W, 3), of another size."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def contact_sheet(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Some pictures, uint8 RGB (H, W, 3) of the same size, in rows with a line below each: uint8 RGB."""
    height, width = pictures[0].shape[:2]
    # somewhat wider than high in all, with few places empty
    count = len(pictures)
    ideal = math.sqrt(count * 2 * height / width)
    columns = min(range(1, min(count, 6) + 1), key=lambda n: abs(n - ideal) + (-count % n) / 2)
    tile_width = min(width, (_SHEET_WIDTH - _GAP) // columns - _GAP)
    tile_height = max(1, round(tile_width * height / width))
    rows = -(-len(pictures) // columns)
    size = (_GAP + columns * (tile_width + _GAP), _GAP + rows * (tile_height + _LINE + _GAP))
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for number, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        x, y = _GAP + column * (tile_width + _GAP), _GAP + row * (tile_height + _LINE + _GAP)
        sheet.paste(Image.fromarray(scaled(pixels, tile_width, tile_height)), (x, y))
        draw.text((x, y + tile_height + 5), caption, _INK, font)
    return np.asarray(sheet)
