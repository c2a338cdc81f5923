"""Rules over time: steps joined by a process tree, a container, a field. See `sequences.py`."""
