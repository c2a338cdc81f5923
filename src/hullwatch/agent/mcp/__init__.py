"""The MCP gateway: between a client and a server, bytes untouched. See docs/mcp-gateway.md.

message, lines, sse, headers, injection and confusable are fed bytes or text and own nothing;
observer (with listings and signals) knows what is under way; stdio and proxy move the bytes.
"""
