"""The Ollama wire."""
