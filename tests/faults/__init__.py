"""Faults, injected into real processes and a real Redis, and an oracle outside Redis that says what broke."""
