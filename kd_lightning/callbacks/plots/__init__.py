"""Plots of a test: confusion matrix, reliability diagram, worst mistakes."""
