"""The production code under a seeded scheduler: real Lua over the in-memory store, a virtual clock, a broker that errs."""
