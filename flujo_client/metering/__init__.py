"""Metering of providers inside a step: each call is reserved before it is made, and what it used is reported after it."""
