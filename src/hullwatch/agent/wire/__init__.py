"""What is said on a wire: bytes in, values out. No parser here owns a socket. docs/model-traffic.md."""
