"""How long this project takes, in turn with each source's own loop and with one that a careful engineer would write."""
