"""Pictures of coloured shapes, and what can be said of them in words."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

SIDE = 32
"""Pixels along a picture's edge."""

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 30),
    "yellow": (245, 215, 60),
    "pink": (245, 130, 190),
    "green": (50, 160, 70),
    "cyan": (70, 205, 215),
    "blue": (40, 80, 200),
    "purple": (130, 60, 170),
}
GROUNDS = {"black": (20, 20, 20), "gray": (75, 75, 75)}
WARM = {"red", "orange", "yellow", "pink"}
ROUND = {"circle", "oval", "ring", "moon"}
SHAPES = [*sorted(ROUND), "square", "triangle", "star", "cross"]

LABELLINGS: dict[str, Callable[["Scene"], str]] = {
    "colours": lambda scene: scene.colour,
    "shapes": lambda scene: scene.shape,
    "warmth": lambda scene: "warm" if scene.colour in WARM else "cold",
    "outline": lambda scene: "round" if scene.shape in ROUND else "angular",
}
"""Ways to sort the pictures. Captions name colours and shapes; no caption says warm, cold, round or angular."""

SYNONYMS = {
    "red": ["red", "red", "crimson", "scarlet"],
    "orange": ["orange", "orange", "amber"],
    "yellow": ["yellow", "yellow", "golden"],
    "pink": ["pink", "pink", "rose"],
    "green": ["green", "green", "emerald"],
    "cyan": ["cyan", "cyan", "turquoise"],
    "blue": ["blue", "blue", "navy"],
    "purple": ["purple", "purple", "violet"],
    "gray": ["gray", "grey"],
    "black": ["black", "dark"],
    "circle": ["circle", "circle", "disc", "ball", "dot"],
    "oval": ["oval", "oval", "ellipse", "egg"],
    "ring": ["ring", "ring", "hoop", "loop"],
    "moon": ["moon", "moon", "crescent"],
    "square": ["square", "square", "box", "block"],
    "triangle": ["triangle", "triangle", "wedge"],
    "star": ["star"],
    "cross": ["cross", "cross", "plus"],
    "small": ["small", "tiny", "little"],
    "large": ["large", "big", "huge"],
    "noisy": ["noisy", "grainy", "rough"],
    "clean": ["clean", "clear", "sharp"],
    "left": ["on the left", "at the left side"],
    "right": ["on the right", "at the right side"],
    "top": ["at the top", "in the upper part"],
    "bottom": ["at the bottom", "in the lower part"],
    "middle": ["in the middle", "in the center"],
    "picture": ["picture", "photo", "image", "drawing", "painting"],
    "background": ["background", "ground", "backdrop"],
    "shape": ["shape", "figure", "form", "object", "thing"],
    "colour": ["color", "colour"],
}
"""What each property may be called; a name that stands twice is the commoner one."""


@dataclass(frozen=True)
class Scene:
    """One shape on a plain ground."""

    shape: str
    colour: str
    ground: str
    radius: float
    """Pixels."""
    x: float
    """Pixels from the left edge to the middle of the shape."""
    y: float
    """Pixels from the top edge."""
    noisy: bool

    @property
    def size(self) -> str:
        """Small, large or neither."""
        return "small" if self.radius < 8.5 else "large" if self.radius > 10 else ""

    @property
    def place(self) -> str:
        """Where the shape stands."""
        across, down = self.x - SIDE / 2, self.y - SIDE / 2
        if max(abs(across), abs(down)) < 1:
            return "middle"
        if abs(across) > abs(down):
            return "left" if across < 0 else "right"
        return "top" if down < 0 else "bottom"


def random_scene(draw: Random) -> Scene:
    """Any shape of any colour and size near the middle of a darker ground."""
    x, y = (SIDE / 2 + draw.uniform(-2.5, 2.5) for _ in range(2))
    return Scene(
        draw.choice(SHAPES),
        draw.choice(list(COLOURS)),
        draw.choice(list(GROUNDS)),
        draw.uniform(7.5, 11),
        x,
        y,
        draw.random() < 0.3,
    )


def render(scene: Scene, draw: Random) -> Image.Image:
    """The picture of a scene, in RGB."""
    zoom = 4  # drawn larger and reduced, for smooth edges
    image = Image.new("RGB", (SIDE * zoom, SIDE * zoom), _shade(GROUNDS[scene.ground], draw))
    mask = Image.new("L", image.size)
    _draw_shape(ImageDraw.Draw(mask), scene.shape, scene.x * zoom, scene.y * zoom, scene.radius * zoom)
    image.paste(_shade(COLOURS[scene.colour], draw), mask=mask)
    image = image.reduce(zoom)
    grain = Image.frombytes("RGB", image.size, draw.randbytes(3 * SIDE * SIDE))
    return Image.blend(image, grain, 0.25) if scene.noisy else image


def _shade(colour: tuple[int, int, int], draw: Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, part + draw.randint(-18, 18))) for part in colour)


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float) -> None:
    def corners(count: int, *radii: float) -> list[tuple[float, float]]:
        turns = [(2 * pi * step / count - pi / 2, radii[step % len(radii)]) for step in range(count)]
        return [(x + r * radius * cos(turn), y + r * radius * sin(turn)) for turn, radius in turns]

    match shape:
        case "circle" | "ring" | "moon":
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
        case "oval":
            canvas.ellipse((x - r, y - r * 0.6, x + r, y + r * 0.6), fill=255)
        case "square":
            canvas.rectangle((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), fill=255)
        case "triangle":
            canvas.polygon(corners(3, 1.1), fill=255)
        case "star":
            canvas.polygon(corners(10, 1.1, 0.45), fill=255)
        case "cross":
            canvas.rectangle((x - r, y - r * 0.33, x + r, y + r * 0.33), fill=255)
            canvas.rectangle((x - r * 0.33, y - r, x + r * 0.33, y + r), fill=255)
    if shape == "ring":
        canvas.ellipse((x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55), fill=0)
    if shape == "moon":
        canvas.ellipse((x - r * 0.4, y - r, x + r * 1.6, y + r), fill=0)


def caption(scene: Scene, draw: Random) -> str:
    """One of the many things to say of a scene."""

    def say(name: str) -> str:
        return draw.choice(SYNONYMS[name])

    shape, colour, ground = say(scene.shape), say(scene.colour), say(scene.ground)
    size = say(scene.size) if scene.size and draw.random() < 0.5 else ""
    whole = f"a {size} {colour} {shape}"
    if draw.random() < 0.2:
        whole += f" {say(scene.place)}"
    if draw.random() < 0.3:
        whole += draw.choice([f" on a {ground} {say('background')}", f" on {ground}", f" in front of {ground}"])
    look = say("noisy" if scene.noisy else "clean") if draw.random() < 0.2 else ""
    sentences = [
        whole,
        f"a {look} {say('picture')} of {whole}",
        f"a {look} {say('picture')} of {whole}",
        f"this is {whole}",
        f"a {say('picture')} of a {shape}",
        f"the {say('shape')} is a {shape}",
        f"a {colour} {say('shape')}",
        f"the {say('colour')} of the {say('shape')} is {colour}",
    ]
    text = " ".join(f"{draw.choice(sentences)}.".split())
    return re.sub(r"\ba (?=[aeio])", "an ", text)


def examples(count: int, seed: int) -> Iterator[tuple[Scene, Image.Image]]:
    """Scenes and their pictures, drawn by `seed`."""
    draw = Random(seed)
    for _ in range(count):
        scene = random_scene(draw)
        yield scene, render(scene, draw)


def write_pictures(folder: Path, labelling: str, each: int, seed: int) -> None:
    """Write `each` pictures of every class as FOLDER/CLASS/NUMBER.png."""
    label = LABELLINGS[labelling]
    draw = Random(seed)
    counts: Counter[str] = Counter()
    classes = {label(Scene(shape, colour, "black", 9, 16, 16, False)) for shape in SHAPES for colour in COLOURS}
    while min(counts[name] for name in classes) < each:
        scene = random_scene(draw)
        name = label(scene)
        if counts[name] < each:
            (folder / name).mkdir(parents=True, exist_ok=True)
            render(scene, draw).save(folder / name / f"{counts[name]:03}.png")
            counts[name] += 1
