"""HTML pages: the structure of a network, and the report about a run."""
