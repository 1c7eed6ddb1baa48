"""How commands run: worker processes, atomic file writes, errors as sentences, devices."""
