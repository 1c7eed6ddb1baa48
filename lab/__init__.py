"""Scripts that made and examined the shipped data and weights; not needed to use them."""
