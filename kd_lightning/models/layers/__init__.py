"""Layers that are exact, and faster or safer than torch's own."""
