"""The computations: pure functions and values without network, clock or framework."""
