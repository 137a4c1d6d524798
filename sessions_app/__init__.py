"""What is remembered between requests: the answers of the Responses API."""
