"""Drop-in replacements for layers of torch: faster on CPUs, or in float32."""
