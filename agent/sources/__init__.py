"""Where a job's code comes from, beside artifacts: git; and what is made of it before it runs."""
