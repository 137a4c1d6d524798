"""The Responses API over every provider: natively where the upstream has it, else translated."""
