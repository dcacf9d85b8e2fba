"""What runs measured: the schema of their results, the table that compares them, and the report."""
