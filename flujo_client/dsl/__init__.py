"""The pipeline DSL: steps, composed with `>>`."""
