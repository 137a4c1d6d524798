"""The ledger: what every request used and cost."""
