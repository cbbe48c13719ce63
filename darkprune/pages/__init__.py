"""Pages for people: a network drawn, a run told in one HTML file."""
