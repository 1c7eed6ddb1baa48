"""How long work runs: worker processes, files that are whole or not there, errors as sentences."""
