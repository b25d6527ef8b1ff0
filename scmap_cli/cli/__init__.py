"""The terminal: thin files that declare options and call one stage."""
