"""Upstreams: which exist, how each is spoken to, and which one serves a request."""
