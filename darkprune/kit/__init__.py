"""A folder to copy to a board: the network, the scripts that build, run and measure it, and how to use them."""
