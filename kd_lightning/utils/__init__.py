"""Small parts that know nothing of networks, data or training."""
