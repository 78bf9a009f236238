"""What is kept of a file beside its pixels: profile, resolution, EXIF, XMP, and the places that are taken out of them."""
