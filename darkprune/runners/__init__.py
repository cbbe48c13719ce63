"""Programs that run networks, all through one interface; each is imported when it is first used."""
