"""Events, findings and state on disk; readable by any process while the agent writes.

`Writer` is the agent's end, `query.Reader` the other. Nothing here is imported for its side:
pyarrow.parquet and duckdb cost memory that the agent does not have.
"""
