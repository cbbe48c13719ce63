"""The library's functions, one file each with its settings and its result; `import darkprune as dp` has them all."""
