"""Colour profiles that the tests of several formats share."""

from __future__ import annotations

import struct

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2 made by hand: Pillow makes none but sRGB."""
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    white = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4s8sI12s",
        start + len(body), b"test", 0x02400000, b"prtr" if space == b"CMYK" else b"mntr", space, connection,
        b"\x07\xe9\0\1\0\1\0\0\0\0\0\0", b"acsp", b"APPL", 0, b"none", b"none", b"", 0, white,
    )  # fmt: skip
    return head.ljust(128, b"\0") + table + body


WHITE_POINT = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
LINEAR_GREY = profile(b"GRAY", {b"wtpt": WHITE_POINT, b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 0x100)})
"""Grey values are amounts of light: half of it is 188 in sRGB, not 128."""


def wide_gamut() -> bytes:
    """A display whose red is green and whose green is red: nothing that a model should see as it is."""

    def column(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in (x, y, z)))

    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    return profile(
        b"RGB ",
        {
            b"wtpt": WHITE_POINT,
            b"rXYZ": column(0.3851, 0.7169, 0.0971),
            b"gXYZ": column(0.4361, 0.2225, 0.0139),
            b"bXYZ": column(0.1431, 0.0606, 0.7141),
            b"rTRC": gamma,
            b"gTRC": gamma,
            b"bTRC": gamma,
        },
    )
