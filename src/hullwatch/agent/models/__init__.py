"""Calls of models, read from HTTP: who was asked for what, at what cost. docs/model-traffic.md."""
