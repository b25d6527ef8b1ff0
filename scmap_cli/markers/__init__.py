"""Marker genes: one file a selector; which there are is in :data:`scmap_cli.registry.SELECTORS`."""
