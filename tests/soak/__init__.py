"""The soak (F22): hours of load while processes die, and whether anything grows."""
