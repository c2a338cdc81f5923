"""The Falco rule language: YAML items, conditions, and how lists and macros come together."""
