"""The Anthropic wire: `/v1/messages`, for every provider."""
