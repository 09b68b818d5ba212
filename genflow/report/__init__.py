"""Plots, sample grids and the HTML page of a bench."""
