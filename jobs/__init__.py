"""Running a command: the CLI frame, atomic file writes, worker processes, devices."""
