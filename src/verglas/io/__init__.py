"""Files in, types out, and back. Every offset, flip and rounding of a format lives in its own file here."""
