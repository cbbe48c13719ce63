"""Darknet's file formats: the .cfg text model, typed options, the .weights file, writing results."""
