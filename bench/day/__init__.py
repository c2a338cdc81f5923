"""A benign day: real programs that no one here wrote, at work in real containers."""
