"""Plots of a test: confusion matrix, worst mistakes, reliability diagram."""
