"""Metadata of picture files: profile, resolution, EXIF, XMP, and how places are taken out of them."""
