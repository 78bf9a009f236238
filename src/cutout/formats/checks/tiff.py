"""The structure of a TIFF file, and what libtiff says while it decodes one.

libtiff's handler of errors is one for the whole process, and writes to standard error without the name of a file. Ours
stands in for it only while a picture of ours is decoded, keeps what is said on the threads that listen, and hands
everything else on to the handler that was there. Where libtiff is out of reach (on Windows it is a part of Pillow's own
library) no message is caught and nothing is changed.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout.formats.checks.preflight import implausible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Messages", "Page", "can_listen", "find_pages", "listening"]


class Page(NamedTuple):
    """A directory of a TIFF file that is a picture to be seen."""

    at: int
    """Where it starts."""
    size: tuple[int, int]
    """Width and height, as it says them."""


_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES = 256, 257, 277, 284, 273, 324
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_LARGEST_TILE = 4096 * 4096
"""Pixels: tiles are decoded whole, also where the page is smaller."""
_PURPOSE = 254
_NO_PAGE = 1 | 4
"""Bits of a TIFF directory that is a smaller copy of another one, or a mask for it."""
_ENTRIES = 4096
"""Entries of a directory; programs write some dozens."""
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value by its type."""
_FIELDS = frozenset({_PURPOSE, _WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES, _TILE_WIDTH, _TILE_HEIGHT})
_FEW = 1000
_SHARED = 1 << 20
"""Bytes of values that may stand in for one another: some programs let equal ones share their place."""
_Entry = tuple[int, int, int]
"""Kind, how many, and the value or where the values stand."""


def find_pages(data: bytes, most: int) -> dict[int, Page]:
    """The first `most` pages of a TIFF file, by their numbers among all directories.

    Where none is a page, the first of all; empty where none can be read.

    Raises:
        PictureError: One of them has far more entries, values, strips or tiles than there is room for.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    pages: dict[int, Page] = {}
    seen: dict[int, Page] = {}
    if order is None:
        return pages
    # of the two kinds of TIFF, how a number of entries, an entry and an address are written
    count, entry, address = ("Q", "HHQQ", "Q") if data[2:4] in {b"+\0", b"\0+"} else ("H", "HHII", "I")
    head, width = struct.calcsize(order + count), struct.calcsize(order + entry)
    try:
        (at,) = struct.unpack_from(order + address, data, 8 if count == "Q" else 4)
        # copies and masks lie beside pages: of a file of them alone, no more is looked at
        while at and at not in seen and len(pages) < most and len(seen) < 4 * most + 60:
            (number,) = struct.unpack_from(order + count, data, at)
            if number > _ENTRIES:
                raise implausible("TIFF", f"a directory of {number} entries")
            wanted = data[at + head : at + head + width * number]
            entries = list(struct.iter_unpack(order + entry, wanted[: len(wanted) - len(wanted) % width]))
            fields = {tag: (kind, many, value) for tag, kind, many, value in entries if tag in _FIELDS}
            page = Page(at, _check_pieces(fields, order, address))
            seen[at] = page
            sizes = (_WIDTHS.get(kind, 0) * many for _, kind, many, _ in entries)
            if sum(size for size in sizes if size <= len(data)) > 2 * len(data) + _SHARED:  # larger ones are not read
                raise implausible("TIFF", "more values than bytes")
            if not _number(fields.get(_PURPOSE), order, address) & _NO_PAGE:
                pages[len(seen) - 1] = page
            (at,) = struct.unpack_from(order + address, data, at + head + width * number)
    except (struct.error, OverflowError):
        pass
    return pages or dict(enumerate(list(seen.values())[:1]))


def _check_pieces(fields: dict[int, _Entry], order: str, address: str) -> tuple[int, int]:
    """Decoders make a list of all strips or tiles, also of those that lie outside; gives width and height."""
    width, height, samples, planes, across, down = (
        _number(fields.get(tag), order, address)
        for tag in (_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _TILE_WIDTH, _TILE_HEIGHT)
    )
    if across * down > max((width + 15) * (height + 15), _LARGEST_TILE):  # tiles have sides of multiples of 16
        raise implausible("TIFF", f"tiles of {across}×{down} pixels for a page of {width}×{height}")
    room = height + (width // 16 + 1) * (height // 16 + 1)  # strips of one row, or the smallest tiles
    room *= min(samples, 8) if planes == 2 else 1
    pieces = max(fields.get(tag, (0, 0, 0))[1] for tag in (_STRIPS, _TILES))
    if pieces > max(room, _FEW):
        raise implausible("TIFF", f"{pieces} strips or tiles for {width}×{height} pixels")
    return width, height


def _number(entry: _Entry | None, order: str, address: str) -> int:
    """A short or long value that stands in its entry; 0 for another."""
    if entry is None or entry[0] not in {3, 4}:
        return 0
    packed = struct.pack(order + address, entry[2])
    return int(struct.unpack_from(order + ("H" if entry[0] == 3 else "I"), packed)[0])


# --- what libtiff says ---

_KEPT = 2
"""Lines of one picture; a damaged fax has one for each of its rows."""
_LONGEST = 200

# The list of arguments (va_list) comes as a pointer on every platform whose libtiff can be reached, or as a structure
# that is handed over by its address: it goes on to vsnprintf or to the other handler as it came.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


class Messages:
    """What was said while a picture was decoded: the first lines, and how many there were."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def __str__(self) -> str:
        more = self.count - len(self.lines)
        return "; ".join(self.lines) + (f"; and {more} more" if more > 0 else "")

    def __bool__(self) -> bool:
        return self.count > 0

    def add(self, line: Callable[[], str]) -> None:
        """Count a line, and keep it if it is one of the first."""
        self.count += 1
        if len(self.lines) < _KEPT and (text := line()) not in self.lines:
            self.lines.append(text)


_local = threading.local()
_lock = threading.Lock()
_listeners = 0
_before: int | None = None
"""Address of the handler that was there."""


@cache
def _library() -> tuple[Any, Any] | None:
    """What sets libtiff's handler, and C's function that formats a line; None where they cannot be reached."""
    from PIL import _imaging

    try:
        # Pillow's own library is loaded already; looking a name up in it also searches those that it is linked with
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        formatted = ctypes.CDLL(None).vsnprintf
    except (AttributeError, OSError, TypeError):
        return None
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    formatted.restype = ctypes.c_int
    formatted.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
    return set_handler, formatted


def can_listen() -> bool:
    """Whether libtiff can be reached."""
    return _library() is not None


def _heard(module: bytes | None, pattern: bytes, arguments: int | None) -> None:
    messages: Messages | None = getattr(_local, "messages", None)
    if messages is None:  # another part of the program decodes at the same time
        if _before:
            _Handler(_before)(module, pattern, arguments)
        return
    messages.add(lambda: _line(module, pattern, arguments))


def _line(module: bytes | None, pattern: bytes, arguments: int | None) -> str:
    library = _library()
    assert library is not None  # noqa: S101 - or no message would come
    buffer = ctypes.create_string_buffer(_LONGEST)
    library[1](buffer, _LONGEST, pattern, arguments)
    # the name that Pillow gives every file says nothing
    name = "" if module in {None, b"tempfile.tif"} else f"{(module or b'').decode('utf-8', 'replace')}: "
    return name + buffer.value.decode("utf-8", "replace").rstrip(". \n")


_handler = _Handler(_heard)  # never freed: a thread may be in it when the handler before it is put back


@contextmanager
def listening() -> Iterator[Messages]:
    """Hear what libtiff says of the pictures that this thread decodes; it is the text of an `OSError`, too."""
    global _listeners, _before  # noqa: PLW0603 - libtiff has one handler for the whole process
    messages, outer = Messages(), getattr(_local, "messages", None)
    if (library := _library()) is None:
        yield messages
        return
    with _lock:
        if _listeners == 0:
            _before = library[0](ctypes.cast(_handler, ctypes.c_void_p))
        _listeners += 1
    _local.messages = messages
    try:
        yield messages
    except OSError as error:
        raise OSError(f"{messages or error}") from error
    finally:
        _local.messages = outer
        with _lock:
            _listeners -= 1
            if _listeners == 0:
                library[0](_before)
