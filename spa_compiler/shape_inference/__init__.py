"""Types and sizes of every value: under one binding of the symbols, and for every binding."""
