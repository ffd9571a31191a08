"""What is computed: no network, no clock, no framework."""
