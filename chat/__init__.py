"""The vocabulary every app speaks: requests, chunks, completions, usage, errors, SSE.

Pure Python (stdlib, msgspec, orjson): nothing in here imports Django or knows a vendor's name.
"""
