"""Reads what a model wrote into text and tool calls, as it comes."""
