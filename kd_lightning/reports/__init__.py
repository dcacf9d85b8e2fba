"""Results of runs: their schema, the table that compares them, and the report."""
