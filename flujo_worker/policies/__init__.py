"""What happens around the user's function, one concern a file."""
