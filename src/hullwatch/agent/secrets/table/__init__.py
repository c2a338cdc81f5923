"""The kinds, by who issues them. A kind is one row; its test makes a value of its example."""
