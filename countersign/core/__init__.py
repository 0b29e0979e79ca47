"""The words of Countersign and what it decides: pure, deterministic, without I/O, clock or randomness."""
