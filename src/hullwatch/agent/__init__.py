"""The AI side: tool calls, model calls, and what they carry. See docs/calls.md."""
