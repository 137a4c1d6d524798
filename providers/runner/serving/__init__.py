"""A local model behind OpenAI's wire, inside the runner's child: what llama.cpp's own server is to
GGUF files, for models that transformers or mlx-lm compute.

`server` loads and listens, `app` speaks HTTP, `service` gives out turns, `generation` is one
completion being made; `transformers_engine` and `mlx_engine` compute. What those two share (chat
templates, sampling, stop strings, text from tokens) is not theirs, so that a request means the same
on both. Django is never imported here, and torch or mlx only by its own engine.
"""
