"""Programs that run a Darknet pair: each behind one interface, imported only when asked for."""
