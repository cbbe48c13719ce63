"""Low-rank factorisation: which convolutions become products, of which rank, in which subspace."""
