"""What the dual encoders of images have in common, whichever library loads them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from shared.errors import UserError
from trainer.tasks.examples import Example


class ImageTowers(ABC):
    """Two towers, of which the second reads images."""

    setup_lines = ""
    image_size: int
    """Pixels along the edge of what the model reads."""
    identity: str
    """Tells this model, its weights and its image processor from others."""

    @abstractmethod
    def to_pixels(self, images: list[Image.Image]) -> Tensor:
        """Images as the model reads them, [images, channels, side, side]."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Unit vectors [images, dim]."""

    def read(self, examples: list[Example]) -> list[Image.Image]:
        """The images of the examples, in RGB."""
        with ThreadPoolExecutor() as readers:  # Pillow decodes without holding Python's lock
            return list(readers.map(read_image, examples))

    def encode(self, inputs: list[Image.Image]) -> Tensor:
        """Unit vectors [images, dim]."""
        return self.encode_pixels(self.to_pixels(inputs))


def read_image(example: Example) -> Image.Image:
    """The image of an example, in RGB.

    Raises:
        UserError: it has none, or it cannot be read.
    """
    image = example.image
    if image is None:
        raise UserError("the model reads images, but the task has texts: set task.format to image, or choose a model")
    try:
        with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds, and each means that the file is at fault
        what = f"an image of {len(image)} bytes in the data" if isinstance(image, bytes) else str(image)
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{what} cannot be read as an image: {reason}") from None


@contextmanager
def looking_up(table: nn.Embedding, embeds: Tensor) -> Iterator[None]:
    """Inside, the embedding `table` gives `embeds` [texts, tokens, width], whatever tokens it looks up.

    So a model's own forward pass runs; the tokens only say where a text ends and what is padding.
    """
    hook = table.register_forward_hook(lambda *_: embeds.to(table.weight.dtype))
    try:
        yield
    finally:
        hook.remove()
