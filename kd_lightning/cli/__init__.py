"""The command line: the Lightning CLI, its arguments and help, shell completion, and what to run next."""
