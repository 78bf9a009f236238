"""The HTTP service: a thin layer over `Remover`. Needs the extra `[serve]`."""
