"""How the shipped data and weights were made, and how they are examined; not needed for use."""
