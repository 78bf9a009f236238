"""What a file is and holds, looked at before a decoder is trusted with it."""
