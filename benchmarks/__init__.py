"""Every speed that the README claims, each with its ratio to a baseline of the same run."""
