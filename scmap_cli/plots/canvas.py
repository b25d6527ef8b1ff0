"""What all figures are made with: colours, a bare figure, files that are whole and alike; no figure fails a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scmap_cli.io.atomic import atomic_file
from scmap_cli.runtime.logs import log

#: Okabe and Ito's colours, told apart with every common colour blindness
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def safely(what: str, draw: Callable[..., None], *args: Any, **options: Any) -> bool:
    """Draw; a failure is a warning, because a figure must not cost the results it shows."""
    try:
        draw(*args, **options)
    except Exception as error:  # noqa: BLE001
        log.warning("could not draw %s: %s", what, error)
        log.debug("reason", exc_info=True)
        return False
    return True


def publish(path: Path, force: bool, what: str, draw: Callable[..., None], *args: Any) -> None:
    """Draw into ``path`` as a whole or not at all; ``draw`` takes ``args`` and then the path.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`~scmap_cli.io.atomic.atomic_file`. A figure that cannot be drawn is only warned of.
    """
    with TemporaryDirectory(prefix="scmap-") as folder:
        drawn = Path(folder) / f"figure{path.suffix}"
        if safely(what, draw, *args, drawn):
            with atomic_file(path, force) as tmp:
                tmp.write_bytes(drawn.read_bytes())


def save(figure: Any, path: Path) -> None:
    """Write a figure in the form that the name of its file says, the same bytes for the same figure."""
    from matplotlib import rc_context

    # No date in the file, and names within it that do not change: equal runs give equal bytes.
    kind = path.suffix.lower().lstrip(".") or "png"
    metadata = {{"svg": "Date", "pdf": "CreationDate"}.get(kind, "Software"): None}
    with rc_context({"svg.hashsalt": "scmap"}):
        figure.savefig(path, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of so many inches, and the axes of its panels, which stand in one line."""
    from matplotlib.figure import Figure

    # A bare Figure needs no pyplot and so no backend, window or global state.
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def palette(count: int) -> list[Any]:
    """Colours that differ in hue, then also in lightness, then along one scale, where they need other marks besides."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if count <= len(COLOURS):
        return list(COLOURS[:count])
    shades = [to_rgb(colour) for colour in COLOURS[:-1]]
    dark = [tuple(0.6 * part for part in shade) for shade in shades]
    light = [tuple(0.45 + 0.55 * part for part in shade) for shade in shades]
    full = [*shades, *dark, *light]
    if count <= len(full):
        return full[:count]
    return [colormaps["turbo"](i / max(count - 1, 1)) for i in range(count)]


def short(name: str, width: int = 42) -> str:
    """The name, cut to a number of characters."""
    return name if len(name) <= width else name[: width - 3] + "..."


def short_names(names: Sequence[str], width: int = 42) -> list[str]:
    """The names cut as by :func:`short`, without what all begin with up to an underscore, such as ``REACTOME_``."""
    first, last = (min(names), max(names)) if len(names) > 1 else ("", "")
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = first[:alike].rfind("_") + 1
    return [short(name[shared:], width) for name in names]
