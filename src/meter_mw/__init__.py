"""A drop-in meter for HTTP APIs: count, limit, answer and forward."""
