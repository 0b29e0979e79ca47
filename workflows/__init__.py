"""The stories. Workflows import only `core`: no I/O, no clock, no randomness."""
