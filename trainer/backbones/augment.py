"""Random views of images for training, as CoOp makes them."""

from math import exp, log, sqrt
from random import Random

from PIL import Image, ImageOps

SCALE = (0.08, 1.0)
"""Smallest and largest share of an image's area in a crop."""
RATIO = (3 / 4, 4 / 3)
"""Narrowest and widest crop, width over height."""
TRIES = 10
"""Draws of a crop before it is taken from the middle."""


def random_view(image: Image.Image, side: int, draw: Random) -> Image.Image:
    """A random crop of an image, resized to `side` x `side` and mirrored or not, as `draw` decides.

    The crop is torchvision's RandomResizedCrop with bicubic interpolation.
    """
    view = image.crop(_box(*image.size, draw)).resize((side, side), Image.Resampling.BICUBIC)
    return ImageOps.mirror(view) if draw.random() < 0.5 else view


def _box(width: int, height: int, draw: Random) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop of random area and shape."""
    for _ in range(TRIES):
        area = width * height * draw.uniform(*SCALE)
        ratio = exp(draw.uniform(log(RATIO[0]), log(RATIO[1])))
        across, down = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = draw.randint(0, width - across), draw.randint(0, height - down)
            return left, top, left + across, top + down
    across, down = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
