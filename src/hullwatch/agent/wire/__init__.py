"""What is said on a wire: bytes in, values out; no sockets. See docs/model-traffic.md."""
