"""OTLP in and out: calls that instrumented frameworks tell of, and ours told on. See docs/otlp.md.

wire.py, jsonform.py → span.py → mapping.py (names.py) → received.py
intake.py between them and the peers: http1.py, grpc.py, receiver.py
encode.py, exporter.py: the other way
"""
