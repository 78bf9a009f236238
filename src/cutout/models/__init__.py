"""The models: the table of what exists, the files on this machine, bringing them here, pixels in and masks out."""
