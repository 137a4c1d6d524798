"""All HTTP the API serves: DRF views by wire, over one pipeline."""
