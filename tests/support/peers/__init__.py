"""Peers that no one here wrote: MCP servers and clients of the official SDKs, and the vendors'
clients of model APIs, each in an environment of its own. README.md shows how to drive them."""
