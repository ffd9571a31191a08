"""The HTTP contract of the design's section 6, held literally: what a client in the field may rely on."""
