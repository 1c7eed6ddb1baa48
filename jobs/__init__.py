"""How commands run: worker processes, atomic file writes, error messages, devices."""
