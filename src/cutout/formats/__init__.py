"""Picture files: bytes in, pixels and metadata out, and back."""
