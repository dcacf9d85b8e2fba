"""What `kd-lightning` does beyond the Lightning CLI."""
