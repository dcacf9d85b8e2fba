"""The command line: the Lightning CLI, arguments and help of all commands, and shell completion."""
