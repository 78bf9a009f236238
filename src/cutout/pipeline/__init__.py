"""One picture from pixels to cut-out; no paths, no console."""
