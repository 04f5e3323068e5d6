"""Where finished runs go, and what existing code calls a state backend: memory, files, SQLite, PostgreSQL, or your own."""
