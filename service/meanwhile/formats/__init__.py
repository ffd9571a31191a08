"""Body formats: one pure module each, bytes in, readings out."""
