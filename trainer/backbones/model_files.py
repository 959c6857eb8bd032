"""Reading a model's files, which somebody else wrote: whatever is wrong with them is one line that says where."""

import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import logging as transformers_logging

from shared.errors import UserError, first_line
from shared.settings import BackboneSettings
from shared.text import cut
from trainer.paths import find_model

POINTER = b"version https://git-lfs.github.com/"
"""What a file begins with that Git LFS left out."""

JSON = (
    "*config.json",
    "modules.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.index.json",
)
"""Files of a model that must be JSON."""

LAYER = re.compile(r"\.\d+\.")

LONGEST_REASON = 400
"""Characters of another library's error; some list all weights of a model."""

NO_DRIVE = "cannot be driven by input embeddings, as a soft prompt does"
HINT = "choose another model"

SAFE = {"trust_remote_code": False}
"""For every `from_pretrained`: code that comes with a model is not run, and nobody is asked whether it may."""


def setting_of(settings: BackboneSettings) -> str:
    """The setting that names the model, for errors."""
    return f"backbone.path = {settings.path!r}" if settings.path else f"backbone.hub = {settings.hub!r}"


@contextmanager
def refusing(settings: BackboneSettings, what: str, hint: str) -> Iterator[None]:
    """Turn every failure inside into one line: the setting, `what` failed, the error and its type, and the hint.

    The libraries raise dozens of types here (tokenizers plain Exception, safetensors SafetensorError, torch
    UnpicklingError, ...), and each of them means that the model's files are at fault, or that a library for them is
    missing. Their own reports are silenced meanwhile.

    Raises:
        UserError: something inside failed.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = cut(f"{type(error).__name__}: {first_line(error)}", LONGEST_REASON).rstrip(". ")
        raise UserError(f"{setting_of(settings)} {what}: {reason}; {hint}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def check_files(settings: BackboneSettings) -> str:
    """The model's folder, .gguf file or hub name, whose files are whole as far as this can be seen at once.

    Raises:
        UserError: no such folder or file, or a file in it is damaged or was never fetched.
    """
    name = find_model(settings)
    path = Path(name)
    files = [path] if path.is_file() else sorted([*path.glob("*"), *path.glob("*/*")]) if path.is_dir() else []
    for file in files:
        if file.is_file() and (fault := _fault(file)):
            where = file.name if file == path else file.relative_to(path)
            raise UserError(f"{setting_of(settings)}: {where} {fault}; copy or download the model again")
    return name


def _fault(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                return "is a pointer of Git LFS in place of the file (`git lfs pull` fetches it)"
        if any(file.match(pattern) for pattern in JSON):
            json.loads(file.read_text(encoding="utf-8"))
        if file.match("model*.safetensors"):
            with safe_open(file, "pt") as weights:
                return _whole_numbers(weights, file.with_name("config.json"))
    except ValueError as error:
        return f"is not JSON: {first_line(error)}"
    except Exception as error:  # of the operating system, or of safetensors, which has a type of its own
        return f"cannot be read: {type(error).__name__}: {first_line(error)}"
    return None


def _whole_numbers(weights: Any, config: Path) -> str | None:
    """What is wrong where quantised weights do not say how they are to be read; they load as if they were not."""
    types = {name: weights.get_slice(name).get_dtype() for name in weights.keys() if name.endswith(".weight")}  # noqa: SIM118
    name = next((name for name, kind in types.items() if kind.startswith(("I", "U"))), None)
    if name is None or "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        return None
    return f"has whole numbers in {name}, but config.json has no quantization_config that says what they mean"


def check_loaded(settings: BackboneSettings, model: Any, found: dict[str, Any], frozen: str = "") -> None:
    """Refuse a model whose weights are not all those of its files, and the other way round, or not finite.

    Args:
        settings: name the model, for the error.
        model: by transformers.
        found: what `from_pretrained` gives with `output_loading_info`.
        frozen: how the names of weights begin that must have been loaded; others may be fresh.

    Raises:
        UserError: a weight was initialised at random, a layer of the files is not used, or a weight is not finite.
    """
    other = sorted(entry for entry in found["mismatched_keys"] if entry[0].startswith(frozen))
    if other:
        name, saved, wanted = other[0]
        raise UserError(
            f"{setting_of(settings)}: config.json does not fit the weights: {name} is {list(saved)} in the file, "
            f"but config.json asks for {list(wanted)}; use the config.json that belongs to the weights"
        )
    missing = sorted(name for name in found["missing_keys"] if name.startswith(frozen))
    if missing:
        raise UserError(
            f"{setting_of(settings)} lacks weights of its frozen part, such as {missing[0]}; "
            "use the config.json that belongs to the weights, or another model"
        )
    names = set(model.state_dict())
    if unused := next((name for name in sorted(found["unexpected_keys"]) if _is_layer(name, names)), None):
        raise UserError(
            f"{setting_of(settings)}: config.json asks for fewer layers than the weights have: {unused} is not used; "
            "use the config.json that belongs to the weights"
        )
    check_finite(settings, model, frozen)


def check_finite(settings: BackboneSettings, model: Any, frozen: str = "") -> None:
    """Refuse a model with weights that are not finite; the arguments are those of `check_loaded`.

    Raises:
        UserError: one is not.
    """
    parameters = (pair for pair in model.named_parameters() if pair[0].startswith(frozen))
    broken = next((name for name, value in parameters if not value.isfinite().all()), None)
    if broken:
        raise UserError(
            f"{setting_of(settings)}: {broken} has values that are NaN or infinite; copy the model again, or {HINT}"
        )


def _is_layer(name: str, names: Collection[str]) -> bool:
    """Whether a model with weights of these `names` has the layer of `name`, with another number."""
    first = LAYER.sub(".0.", name)
    return first != name and any(one in names for one in (first, first.partition(".")[2]))
