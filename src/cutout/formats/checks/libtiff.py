"""What libtiff says while it decodes, which it would else write to standard error without the name of a file.

Its handler of errors is one for the whole process. Ours stands in for it only while a picture of ours is decoded, keeps
what is said on the threads that listen, and hands everything else on to the handler that was there. Where libtiff is
out of reach (on Windows it is a part of Pillow's own library) nothing is heard and nothing is changed.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Said", "can_listen", "listening"]

_KEPT = 2
"""Lines of one picture; a damaged fax has one for each of its rows."""
_LONGEST = 200

# The list of arguments (va_list) comes as a pointer on every platform whose libtiff can be reached, or as a structure
# that is handed over by its address: it goes on to vsnprintf or to the other handler as it came.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


class Said:
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
    said: Said | None = getattr(_local, "said", None)
    if said is None:  # another part of the program decodes at the same time
        if _before:
            _Handler(_before)(module, pattern, arguments)
        return
    said.add(lambda: _line(module, pattern, arguments))


def _line(module: bytes | None, pattern: bytes, arguments: int | None) -> str:
    library = _library()
    assert library is not None  # noqa: S101 - or nothing would be heard
    buffer = ctypes.create_string_buffer(_LONGEST)
    library[1](buffer, _LONGEST, pattern, arguments)
    # the name that Pillow gives every file says nothing
    name = "" if module in {None, b"tempfile.tif"} else f"{(module or b'').decode('utf-8', 'replace')}: "
    return name + buffer.value.decode("utf-8", "replace").rstrip(". \n")


_handler = _Handler(_heard)  # never freed: a thread may be in it when the handler before it is put back


@contextmanager
def listening() -> Iterator[Said]:
    """Hear what libtiff says of the pictures that this thread decodes."""
    global _listeners, _before  # noqa: PLW0603 - libtiff has one handler for the whole process
    said, outer = Said(), getattr(_local, "said", None)
    library = _library()
    if library is None:
        yield said
        return
    with _lock:
        if _listeners == 0:
            _before = library[0](ctypes.cast(_handler, ctypes.c_void_p))
        _listeners += 1
    _local.said = said
    try:
        yield said
    finally:
        _local.said = outer
        with _lock:
            _listeners -= 1
            if _listeners == 0:
                library[0](_before)
