"""Everything about Redis: the store, group commit, reads, and the embedded Valkey."""
