"""What each release has stored, and that every later one goes on with it (I12)."""
