"""Options that would do nothing beside the others: said before the work, and why.

Only what holds for every picture stands here. What depends on the picture (it has no holes, no metadata, one frame) is
no mistake, and what contradicts itself is refused where the options are made. Options of accelerators are judged where
it is known which device runs (`accelerator`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cutout.errors import UsageError
from cutout.options.kinds import with_names
from cutout.output_formats import OutputFormat, names

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from cutout.options import Encoding, RemoveOptions

__all__ = ["IDLE", "Asked", "Idle", "idle"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run as it was asked for.

    Attributes:
        options: What the cut-outs look like.
        encoding: How they are written.
        formats: In which formats.
        folders: A folder is among the inputs.
        patterns: A pattern is.
        to_file: The one result goes to a file that is named.
        to_stream: The result goes to standard output.
        own_file: The model is an `.onnx` file of the user's.
        rembg: The model is run by rembg.
        classes: The model sorts pixels into classes.
    """

    options: RemoveOptions
    encoding: Encoding
    formats: frozenset[OutputFormat]
    folders: bool = False
    patterns: bool = False
    to_file: bool = False
    to_stream: bool = False
    own_file: bool = False
    rembg: bool = False
    classes: bool = False

    @property
    def opaque(self) -> bool:
        """Nothing of the result is transparent: there are no hidden colours."""
        color = self.options.background_color
        covered = self.options.background is not None and (color is None or color[3] > 0)
        return self.options.mask or covered or not any(each.has_alpha for each in self.formats)


class Idle(NamedTuple):
    """A row: an option, when it does nothing, and why; other options stand in braces."""

    name: str
    when: Callable[[Asked], bool]
    why: str


IDLE: tuple[Idle, ...] = (
    Idle(
        "quality",
        lambda run: all(each.row.quality is None for each in run.formats),
        f"only {names(lambda row: row.quality is not None)} have one",
    ),
    Idle(
        "quality",
        lambda run: run.encoding.lossless and all("quality" in (each.row.lossless or ()) for each in run.formats),
        "{lossless} takes the highest",
    ),
    Idle(
        "lossless",
        lambda run: all(each.row.lossless is None for each in run.formats),
        f"it is for {names(lambda row: row.lossless is not None)}",
    ),
    Idle("png_level", lambda run: OutputFormat.PNG not in run.formats, "it is for png"),
    Idle("keep_hidden", lambda run: run.opaque, "nothing of the result is transparent"),
    Idle(  # the encoder of PNG also leaves colours simpler where alpha is faint
        "keep_hidden",
        lambda run: run.options.shadow is not None and OutputFormat.PNG not in run.formats,
        "{shadow} leaves no hidden colours",
    ),
    Idle(
        "max_frames",
        lambda run: run.encoding.first_frame or not any(each.has_frames or each.has_pages for each in run.formats),
        "only the first frame is taken",
    ),
    Idle("recursive", lambda run: not run.folders, "no input is a folder"),
    Idle("exclude", lambda run: not (run.folders or run.patterns), "no input is a folder or a pattern"),
    Idle("suffix", lambda run: run.to_file or run.to_stream, "the output has a name"),
    Idle("existing", lambda run: run.to_stream, "the result goes to standard output"),
    Idle("pull", lambda run: run.own_file, "the model is a file of your own"),
    Idle("pull", lambda run: run.rembg, "rembg brings its models itself"),
    Idle("background_fit", lambda run: run.options.background_picture is None, "the background is no picture"),
    Idle("matting_foreground", lambda run: not run.options.matting, "it goes with {matting}"),
    Idle("matting_background", lambda run: not run.options.matting, "it goes with {matting}"),
    Idle(
        "matting_foreground",
        lambda run: run.options.matting and run.options.post_process and run.options.matting_foreground < 255,
        "{post_process} makes the mask hard already",
    ),
    Idle(
        "matting_background",
        lambda run: run.options.matting and run.options.post_process and run.options.matting_background > 0,
        "{post_process} makes the mask hard already",
    ),
    Idle("matting_erode", lambda run: not run.options.matting, "it goes with {matting}"),
    Idle("edge_colors", lambda run: run.options.mask, "{mask} has no colours"),
    Idle(
        "shadow",
        lambda run: run.options.mask and run.options.canvas is not None and run.options.scale != 1,
        "{mask} shows none, and the subject's size on the canvas is given",
    ),
    Idle("crop", lambda run: run.options.canvas is not None, "{canvas} frames the subject"),
    Idle(
        "threshold",
        lambda run: run.options.post_process and not run.options.matting and bool(run.options.threshold),
        "{post_process} makes the mask hard already",
    ),
    Idle("tiles", lambda run: run.options.tiles == 1, "a grid of 1×1 is the picture itself; 2 to 8 are looked at"),
    Idle("tiles", lambda run: run.classes, "the model sorts pixels into classes and looks once"),
    Idle("refine", lambda run: run.classes, "the model sorts pixels into classes and looks once"),
    Idle("fit", lambda run: run.rembg, "rembg prepares its pictures itself"),
    Idle("rescale", lambda run: run.rembg, "rembg finishes its masks itself"),
)


def idle(run: Asked, given: Container[str], write: Callable[[str], str] = str) -> Iterator[str]:
    """What to say of the options that do nothing, each written by `write`.

    `given` are those that were given in this very call, not in the environment for all commands.

    Raises:
        UsageError: A transparent background was asked for, and the format has none.
    """
    # the options themselves have no word for it, as it is what they are without any
    opaque = [each for each in run.formats if not each.has_alpha]
    if "background" in given and run.options.background is None and opaque:
        raise UsageError(
            f"background transparent does not go with {opaque[0].value}, which holds no transparency",
            hint="write png or webp, or name a colour",
            options=("background",),
        )
    for row in IDLE:
        if row.name in given and row.when(run):
            yield with_names(f"{{{row.name}}} does nothing here: {row.why}", write)
