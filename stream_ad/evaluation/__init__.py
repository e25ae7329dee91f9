"""Labelled data -> measures."""
